// SPDX-License-Identifier: Apache-2.0

// Foundation's file handles would link all of Foundation, fifty megabytes, into the tool.
#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// The standard streams of a process.
enum StandardStream: Int32 {
    case output = 1
    case error = 2

    struct Failure: Error, CustomStringConvertible {
        let description: String

        init(_ action: String) { description = "can't \(action): \(String(cString: strerror(errno)))" }
    }

    /// All bytes of standard input.
    static func readInput() throws -> [UInt8] {
        var bytes: [UInt8] = [], block = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = read(0, &block, block.count)
            if count == 0 { return bytes }
            if count > 0 {
                bytes += block[..<count]
            } else if errno != EINTR {
                throw Failure("read standard input")
            }
        }
    }

    func write(_ bytes: [UInt8]) throws {
        var done = 0
        while done < bytes.count {
            let count = bytes[done...].withUnsafeBytes { posixWrite(rawValue, $0.baseAddress, $0.count) }
            if count >= 0 {
                done += count
            } else if errno != EINTR {
                throw Failure("write")
            }
        }
    }
}

/// `write` of the C library, which the method's name hides.
private func posixWrite(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int { write(descriptor, bytes, count) }

// SPDX-License-Identifier: Apache-2.0

import Foundation

/// Writes float32 numbers as NumPy's .npy, version 1.0.
enum NumPyFile {
    static func write(_ values: [Float], shape: [Int], to path: String) throws {
        let sizes = shape.map { "\($0), " }.joined()
        var header = "{'descr': '<f4', 'fortran_order': False, 'shape': (\(sizes)), }"
        // Ten bytes stand before the header, and the data begin at a multiple of 64.
        header += String(repeating: " ", count: 63 - (10 + header.utf8.count) % 64) + "\n"
        var data = Data([0x93] + Array("NUMPY".utf8) + [1, 0, UInt8(header.utf8.count % 256), UInt8(header.utf8.count / 256)])
        data.append(contentsOf: header.utf8)
        for value in values { withUnsafeBytes(of: value.bitPattern.littleEndian) { data.append(contentsOf: $0) } }
        do {
            try data.write(to: URL(filePath: path))
        } catch {
            throw EngineError("\(path) can't be written")
        }
    }
}

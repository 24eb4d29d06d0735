// SPDX-License-Identifier: Apache-2.0

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// Reading and writing `scheduler_config.json`, with the system's own error messages.
enum ConfigurationFile {
    static let name = "scheduler_config.json"

    /// The bytes of a file, or of `scheduler_config.json` in a folder or in its subfolder.
    ///
    /// A folder without the subfolder's file is searched for the file itself, as in diffusers.
    static func read(path: String, subfolder: String?) throws(SchedulerError) -> [UInt8] {
        guard isDirectory(path) else { return try readFile(path) }
        if let subfolder, isRegular("\(path)/\(subfolder)/\(name)") {
            return try readFile("\(path)/\(subfolder)/\(name)")
        }
        guard isRegular("\(path)/\(name)") else {
            let places = subfolder.map { ", and neither has its folder \($0)" } ?? ""
            throw .inaccessibleFile(path: path, reason: "this folder has no \(name)\(places)")
        }
        return try readFile("\(path)/\(name)")
    }

    static func write(_ text: String, directory: String) throws(SchedulerError) {
        let path = "\(directory)/\(name)"
        try makeDirectory(directory)
        guard isDirectory(directory) else { throw .inaccessibleFile(path: directory, reason: "this is not a folder") }
        // A reader must never see half a file: write beside it and rename.
        let temporary = "\(path).\(getpid()).part"
        guard let file = fopen(temporary, "wb") else { throw lastFault(path) }
        let bytes = Array(text.utf8)
        let complete = fwrite(bytes, 1, bytes.count, file) == bytes.count
        guard fclose(file) == 0, complete, rename(temporary, path) == 0 else {
            let fault = lastFault(path)
            unlink(temporary)
            throw fault
        }
    }

    /// Makes a folder and its parents.
    private static func makeDirectory(_ path: String) throws(SchedulerError) {
        if isDirectory(path) { return }
        if let separator = path.lastIndex(of: "/"), separator > path.startIndex {
            try makeDirectory(String(path[..<separator]))
        }
        if mkdir(path, 0o777) != 0, errno != EEXIST { throw lastFault(path) }
    }

    private static func readFile(_ path: String) throws(SchedulerError) -> [UInt8] {
        guard let file = fopen(path, "rb") else { throw lastFault(path) }
        defer { fclose(file) }
        var information = stat()
        guard fstat(fileno(file), &information) == 0 else { throw lastFault(path) }
        guard information.st_mode & S_IFMT != S_IFDIR else {
            throw .inaccessibleFile(path: path, reason: "this is a folder")
        }
        guard information.st_size <= Limits.configurationByteCount else {
            throw .inaccessibleFile(
                path: path,
                reason: "the file has \(information.st_size) bytes, but must have at most \(Limits.configurationByteCount)")
        }
        var bytes: [UInt8] = []
        var block = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = fread(&block, 1, block.count, file)
            bytes += block[..<count]
            // Pipes and devices have no size to ask for.
            if bytes.count > Limits.configurationByteCount {
                throw .inaccessibleFile(
                    path: path, reason: "the file has more than the \(Limits.configurationByteCount) bytes allowed")
            }
            if count < block.count {
                if ferror(file) != 0 { throw lastFault(path) }
                return bytes
            }
        }
    }

    private static func isDirectory(_ path: String) -> Bool { mode(path).map { $0 & S_IFMT == S_IFDIR } ?? false }
    private static func isRegular(_ path: String) -> Bool { mode(path).map { $0 & S_IFMT == S_IFREG } ?? false }

    private static func mode(_ path: String) -> mode_t? {
        var information = stat()
        return stat(path, &information) == 0 ? information.st_mode : nil
    }

    private static func lastFault(_ path: String) -> SchedulerError {
        .inaccessibleFile(path: path, reason: String(cString: strerror(errno)))
    }
}

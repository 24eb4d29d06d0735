// SPDX-License-Identifier: Apache-2.0

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// One line on the terminal, redrawn again and again. Silent if standard error isn't a terminal.
public final class ProgressBar {
    private let total: Int
    private var done = 0
    private var shown = ""
    private let isTerminal = isatty(STDERR_FILENO) == 1

    public init(total: Int) {
        self.total = total
    }

    public func advance(by amount: Int, doing activity: String) {
        done += amount
        let width = 30
        let filled = min(width * done / max(total, 1), width)
        let bar = String(repeating: "█", count: filled) + String(repeating: "░", count: width - filled)
        show("\(bar) \(min(100 * done / max(total, 1), 100))%  \(activity)")
    }

    /// Clears the line.
    public func finish() { show("") }

    private func show(_ line: String) {
        guard isTerminal, line != shown else { return }
        shown = line
        let bytes = Array("\r\u{1B}[K\(line)".utf8)
        _ = bytes.withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}

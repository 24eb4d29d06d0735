// SPDX-License-Identifier: Apache-2.0

import Foundation

/// One line on the terminal that is drawn over and over. Silent where standard error is no terminal.
final class ProgressBar {
    private let total: Int
    private var done = 0
    private var shown = ""
    private let isTerminal = isatty(STDERR_FILENO) == 1

    init(total: Int) {
        self.total = total
    }

    func advance(by amount: Int, doing activity: String) {
        done += amount
        let width = 30
        let filled = min(width * done / max(total, 1), width)
        let bar = String(repeating: "█", count: filled) + String(repeating: "░", count: width - filled)
        show("\(bar) \(min(100 * done / max(total, 1), 100))%  \(activity)")
    }

    /// Wipes the line.
    func finish() { show("") }

    private func show(_ line: String) {
        guard isTerminal, line != shown else { return }
        shown = line
        FileHandle.standardError.write(Data("\r\u{1B}[K\(line)".utf8))
    }
}

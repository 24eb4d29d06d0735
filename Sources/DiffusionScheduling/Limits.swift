// SPDX-License-Identifier: Apache-2.0

/// Limits on input from outside, so that no file can take much time or memory.
///
/// Real input is far below them: a `scheduler_config.json` has a few hundred bytes and some thirty values, a model 1,000 training
/// timesteps, a run 4 to 50 steps. SECURITY.md has the same table for readers.
package enum Limits {
    /// Bytes of a configuration, as a file or as text. One with `trained_betas` for a million timesteps has about 25 million.
    package static let configurationByteCount = 32 << 20
    /// Levels of nested objects and arrays; a configuration has one or two.
    package static let nesting = 64
    /// Values in a configuration, including those in objects and arrays.
    package static let valueCount = 1 << 20
    /// Characters of a number; the longest float64 that Python writes has 24.
    package static let numberLength = 1024
    /// T, the training timesteps of a model.
    package static let trainingTimesteps = 1_000_000
    /// Steps of a plan.
    package static let steps = 100_000
    /// Bytes of a file's text that an error quotes.
    package static let quotedByteCount = 200
}

extension String {
    /// The text, or its beginning if it is too long to quote in an error.
    var quoted: String {
        if utf8.count <= Limits.quotedByteCount { return self }
        // Whole characters only; a single one may have any length.
        var end = unicodeScalars.startIndex, count = 0
        while count + unicodeScalars[end].utf8.count <= Limits.quotedByteCount {
            count += unicodeScalars[end].utf8.count
            end = unicodeScalars.index(after: end)
        }
        return "\(String(unicodeScalars[..<end]))… (\(utf8.count) bytes)"
    }
}

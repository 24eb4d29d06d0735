// SPDX-License-Identifier: Apache-2.0

/// The whole state of a ``TorchCPUNoise`` or a ``NumPyNoise``: its place in the sequence of MT19937 (Matsumoto & Nishimura 1998,
/// doi:10.1145/272991.272995), and the spare normal of its last pair.
///
/// For NumPy these are the fields of `RandomState.get_state()`: `words` the second, `drawnWordCount` the third (`pos`),
/// `spareNormal` the last two. For torch they are found in `Generator.get_state()`.
///
/// The encoded form spells the words as one string of 4,992 hexadecimal digits.
public struct MersenneTwisterState: Sendable, Equatable {
    /// The 624 words of the sequence that are being drawn from, before tempering.
    public let words: [UInt32]
    /// The number of words drawn; 624 after seeding.
    public let drawnWordCount: Int
    /// The second normal of a pair, once the first has been used.
    public let spareNormal: Double?

    /// The number of words in a state.
    public static let wordCount = 624

    /// A state of these words.
    ///
    /// - Throws: `invalidValue` unless there are 624 words, `drawnWordCount` is from 0 to 624 and the spare normal is from −16 to
    ///   16; also for words from which only zeros follow, which no seed gives.
    public init(words: [UInt32], drawnWordCount: Int, spareNormal: Double? = nil) throws(SchedulerError) {
        guard words.count == Self.wordCount else {
            throw .invalidValue(key: "words", value: "\(words.count) words", allowed: "\(Self.wordCount) words")
        }
        guard (0...Self.wordCount).contains(drawnWordCount) else {
            throw .invalidValue(key: "drawnWordCount", value: "\(drawnWordCount)", allowed: "from 0 to \(Self.wordCount)")
        }
        // Only the highest bit of the first word affects the following words.
        guard words[0] >> 31 != 0 || words.dropFirst().contains(where: { $0 != 0 }) else {
            throw .invalidValue(
                key: "words", value: "all 0 except for the first word's lower bits", allowed: "the words of a seeded generator")
        }
        // √(−2 ln 2⁻¹⁰⁴) < 13 is the greatest that two uniforms of 53 bits can give; a float32 must be able to hold it.
        if let spareNormal, !(abs(spareNormal) <= 16) {
            throw .invalidValue(key: "spareNormal", value: "\(spareNormal)", allowed: "from -16 to 16")
        }
        self.init(checkedWords: words, drawnWordCount: drawnWordCount, spareNormal: spareNormal)
    }

    init(checkedWords: [UInt32], drawnWordCount: Int, spareNormal: Double?) {
        words = checkedWords
        self.drawnWordCount = drawnWordCount
        self.spareNormal = spareNormal
    }
}

extension MersenneTwisterState: Codable {
    private enum CodingKeys: CodingKey {
        case words, drawnWordCount, spareNormal
    }

    /// Reads a state from a decoder.
    ///
    /// - Throws: the decoder's errors; `DecodingError` unless the words are 4,992 hexadecimal digits; `invalidValue` for numbers
    ///   that no state has.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        let digits = Array(try container.decode(String.self, forKey: .words).utf8)
        let words = stride(from: 0, to: digits.count, by: 8).map { start in
            // A sign would pass as a number.
            let isHexadecimal = digits[start...].prefix(8).allSatisfy { Character(Unicode.Scalar($0)).isHexDigit }
            return isHexadecimal ? UInt32(String(decoding: digits[start...].prefix(8), as: UTF8.self), radix: 16) : nil
        }
        guard digits.count == 8 * Self.wordCount, !words.contains(nil) else {
            throw DecodingError.dataCorruptedError(
                forKey: .words, in: container, debugDescription: "expected \(8 * Self.wordCount) hexadecimal digits")
        }
        try self.init(
            words: words.compactMap { $0 }, drawnWordCount: container.decode(Int.self, forKey: .drawnWordCount),
            spareNormal: container.decodeIfPresent(Double.self, forKey: .spareNormal))
    }

    /// Writes the state to an encoder.
    ///
    /// - Throws: the encoder's errors.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        let digits = words.map { word in
            let digits = String(word, radix: 16)
            return String(repeating: "0", count: 8 - digits.count) + digits
        }
        try container.encode(digits.joined(), forKey: .words)
        try container.encode(drawnWordCount, forKey: .drawnWordCount)
        try container.encodeIfPresent(spareNormal, forKey: .spareNormal)
    }
}

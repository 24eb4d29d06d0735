// SPDX-License-Identifier: Apache-2.0

import Foundation

@testable import DiffusionScheduling

/// The records of `Tests/Goldens/generate_noise.py`, which documents the fields.
struct NoiseGoldens: Decodable {
    /// A float32 result: a hash of all values, and some of the values.
    struct Result: Decodable {
        let sha256: String
        let indices: [Int]
        let values: Data
    }

    struct Fill: Decodable {
        let seed: UInt64
        let count: Int
        let result: Result

        private enum CodingKeys: CodingKey {
            case seed, count
        }

        init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: CodingKeys.self)
            seed = try container.decode(UInt64.self, forKey: .seed)
            count = try container.decode(Int.self, forKey: .count)
            result = try Result(from: decoder)
        }
    }

    struct State: Decodable {
        let drawn: Int
        let wordsSHA256: String
        let spare: String?

        private enum CodingKeys: String, CodingKey {
            case drawn, spare
            case wordsSHA256 = "words_sha256"
        }
    }

    struct Call: Decodable {
        let type: ElementType
        let count: Int
        let sha256: String?
        let values: Data
        let state: State
    }

    struct Sequence: Decodable {
        let seed: UInt64
        let calls: [Call]
    }

    struct SavedState: Decodable {
        struct Next: Decodable {
            let count: Int
            let values: Data
        }

        let words: Data
        let drawn: Int
        let spare: String?
        let next: Next
    }

    struct Exhaustive: Decodable {
        let first, second: UInt32?
        let sum, weighted: UInt64
    }

    struct KnownAnswer: Decodable {
        let counter, key, output: [UInt32]
    }

    struct Words: Decodable {
        let seed, block: UInt64
        let words: Data
    }

    struct Published: Decodable {
        let source: String
        let maxBlocks: Int?
        let seed: UInt64
        let earlier: [Int]
        let count: Int
        let indices: [Int]
        let values: [Double]
        let digits: Int?
        let mean, std: Double?

        private enum CodingKeys: String, CodingKey {
            case source, seed, earlier, count, indices, values, digits, mean, std
            case maxBlocks = "max_blocks"
        }
    }

    let torchFills, numpyFills: [Fill]
    let torchSequences, numpySequences: [Sequence]
    let torchStates: [SavedState]
    let torchExhaustive: [Exhaustive]
    let philoxKnownAnswers: [KnownAnswer]
    let philoxWords: [Words]
    let cudaPublished: [Published]

    private enum CodingKeys: String, CodingKey {
        case torchFills = "torch_fills", torchSequences = "torch_sequences", torchStates = "torch_states"
        case torchExhaustive = "torch_exhaustive"
        case numpyFills = "numpy_fills", numpySequences = "numpy_sequences"
        case philoxKnownAnswers = "philox_known_answers", philoxWords = "philox_words", cudaPublished = "cuda_published"
    }

    static func load() throws -> NoiseGoldens {
        let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        return try JSONDecoder().decode(NoiseGoldens.self, from: Data(contentsOf: tests.appending(path: "Goldens/noise.json")))
    }
}

extension Data {
    func numbers<Number: BitwiseCopyable>(_ type: Number.Type) -> [Number] {
        withUnsafeBytes { bytes in
            stride(from: 0, to: bytes.count, by: MemoryLayout<Number>.size).map {
                bytes.loadUnaligned(fromByteOffset: $0, as: Number.self)
            }
        }
    }
}

/// Tolerances of the noise tests, with their derivations.
enum NoiseTolerance {
    /// In units of the last place of float64, for torch's and NumPy's calls of the C library's log, log1p, sin and cos: the
    /// goldens' library and the local one err by less than one unit each; the root, the quotient and the product that follow add
    /// half a unit each, which a binade's edge can double.
    static let systemFunctions = 4.0

    /// In units of the last place of float32, for our CUDA-style normals against the formula: half a unit for the one rounding, and
    /// float64's own error, some 2⁻⁴⁸ against 2⁻²⁴.
    static let formula = 0.501

    /// Relative to the radius, for a device's normals against the formula: CUDA's tables for sine and cosine err by 2^-21.41 in
    /// [-π, π] by its documentation, and by more up to 2π; its float32 logarithm, root and products add some 2⁻²³. The largest
    /// deviation among the published values is 0.57 of this.
    static let device = 0x1p-20
}

// MARK: - SHA-256

/// FIPS 180-4, section 6.2.
func sha256<Number: BitwiseCopyable>(_ numbers: [Number]) -> String {
    var message = numbers.withUnsafeBytes { Array($0) }
    let bitCount = UInt64(message.count) * 8
    message.append(0x80)
    while message.count % 64 != 56 { message.append(0) }
    for shift in stride(from: 56, through: 0, by: -8) { message.append(UInt8(truncatingIfNeeded: bitCount >> UInt64(shift))) }

    let primes = (2...311).filter { candidate in !(2..<candidate).contains { candidate % $0 == 0 } }.map { UInt128($0) }
    /// The first 32 bits of the fraction of the n-th root, which give the standard's constants.
    func fraction(ofRoot n: Int, _ prime: UInt128) -> UInt32 {
        func power(_ x: UInt128) -> UInt128 { n == 2 ? x * x : x * x * x }
        var root: UInt128 = 0
        for bit in stride(from: 36, through: 0, by: -1) where power(root | 1 << UInt128(bit)) <= prime << UInt128(32 * n) {
            root |= 1 << UInt128(bit)
        }
        return UInt32(truncatingIfNeeded: root)
    }
    let k = primes.map { fraction(ofRoot: 3, $0) }
    var hash = primes.prefix(8).map { fraction(ofRoot: 2, $0) }
    func rotated(_ x: UInt32, _ n: UInt32) -> UInt32 { x >> n | x << (32 - n) }

    for start in stride(from: 0, to: message.count, by: 64) {
        var w = (0..<16).map { i in (0..<4).reduce(UInt32(0)) { $0 << 8 | UInt32(message[start + 4 * i + $1]) } }
        for i in 16..<64 {
            let s0 = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3
            let s1 = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10
            w.append(w[i - 16] &+ s0 &+ w[i - 7] &+ s1)
        }
        var h = hash
        for i in 0..<64 {
            let s1 = rotated(h[4], 6) ^ rotated(h[4], 11) ^ rotated(h[4], 25)
            let choice = h[4] & h[5] ^ ~h[4] & h[6]
            let first = h[7] &+ s1 &+ choice &+ k[i] &+ w[i]
            let s0 = rotated(h[0], 2) ^ rotated(h[0], 13) ^ rotated(h[0], 22)
            let majority = h[0] & h[1] ^ h[0] & h[2] ^ h[1] & h[2]
            h = [first &+ s0 &+ majority, h[0], h[1], h[2], h[3] &+ first, h[4], h[5], h[6]]
        }
        hash = zip(hash, h).map { $0 &+ $1 }
    }
    return hash.map { String(format: "%08x", $0) }.joined()
}

// MARK: - The plain oracles

/// MT19937, one word at a time, by the paper's recurrence.
struct PlainTwister {
    private var words: [UInt32]

    init(seed: UInt32) {
        words = [seed]
        for k in 1..<624 { words.append(1_812_433_253 &* (words[k - 1] ^ words[k - 1] >> 30) &+ UInt32(k)) }
    }

    mutating func next() -> UInt32 {
        let mixed = words[0] & 0x8000_0000 | words[1] & 0x7fff_ffff
        var word = words[397] ^ mixed >> 1 ^ (mixed & 1 == 0 ? 0 : 0x9908_b0df)
        words.removeFirst()
        words.append(word)
        word ^= word >> 11
        word ^= word << 7 & 0x9d2c_5680
        word ^= word << 15 & 0xefc6_0000
        return word ^ word >> 18
    }
}

/// The word that tempers to `draw`.
func untempered(_ draw: UInt32) -> UInt32 {
    let x = draw ^ draw >> 18
    let y = x ^ x << 15 & 0xefc6_0000
    // Each pass corrects 7, then 11 more bits.
    let z = (0..<4).reduce(y) { z, _ in y ^ z << 7 & 0x9d2c_5680 }
    return (0..<2).reduce(z) { word, _ in z ^ word >> 11 }
}

/// One fill of 16 or more by the steps of torch's AVX2 code, one lane at a time. Swift never fuses a product and a sum by itself;
/// `addingProduct` always does.
func plainTorchFill(_ count: Int, _ twister: inout PlainTwister) -> [Float] {
    func block(_ uniforms: ArraySlice<Float>) -> [Float] {
        let pairs = zip(uniforms.prefix(8), uniforms.suffix(8)).map { plainTorchPair(1 - $0, $1) }
        return pairs.map(\.cosine) + pairs.map(\.sine)
    }
    func draw(_ n: Int) -> [Float] { (0..<n).map { _ in Float(twister.next() & 0xffffff) * 0x1p-24 } }
    let uniforms = draw(count)
    var values = (0..<count / 16).flatMap { block(uniforms[16 * $0..<16 * $0 + 16]) }
    if count % 16 != 0 {
        values.append(contentsOf: repeatElement(0, count: count % 16))
        values.replaceSubrange(count - 16..<count, with: block(draw(16)[...]))
    }
    return values
}

private func plainTorchPair(_ u1: Float, _ u2: Float) -> (cosine: Float, sine: Float) {
    func horner(_ coefficients: [Float], _ x: Float) -> Float {
        coefficients.dropFirst().reduce(coefficients[0]) { $1.addingProduct($0, x) }
    }
    var exponent = Float(u1.exponent + 1)
    var f = u1.significand / 2
    if f < 0.707106781186547524 {
        exponent -= 1
        f = (f - 1) + f
    } else {
        f -= 1
    }
    let z = f * f
    var p = horner(
        [
            7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
            2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
        ], f)
    p = (exponent * -2.12194440e-4).addingProduct(p * f, z)
    p = p - z * 0.5
    let logarithm = (f + p) + exponent * 0.693359375
    let radius = (-2 * logarithm).squareRoot()

    let theta = Float(2 * Double.pi) * u2
    let j = (Int(theta * 1.27323954473516) + 1) & ~1
    var r = theta + Float(j) * -0.78515625
    r = r.addingProduct(Float(j), -2.4187564849853515625e-4)
    r = r.addingProduct(Float(j), -3.77489497744594108e-8)
    let square = r * r
    let c = horner([2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2], square) * square
    let even = (square * -0.5).addingProduct(c, square) + 1
    let s = horner([-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1], square) * square
    let odd = r.addingProduct(s, r)
    let (sine, cosine) = j & 2 == 0 ? (odd, even) : (even, odd)
    return (radius * ((j + 2) & 4 == 0 ? cosine : -cosine) + 0, radius * (j & 4 == 0 ? sine : -sine) + 0)
}

/// Philox 4x32-10, by section 3.3 of the paper.
func plainPhilox(counter: [UInt32], key: [UInt32]) -> [UInt32] {
    var c = counter, k = key
    for _ in 0..<10 {
        let first = c[0].multipliedFullWidth(by: 0xd251_1f53), second = c[2].multipliedFullWidth(by: 0xcd9e_8d57)
        c = [second.high ^ c[1] ^ k[0], second.low, first.high ^ c[3] ^ k[1], first.low]
        k = [k[0] &+ 0x9e37_79b9, k[1] &+ 0xbb67_ae85]
    }
    return c
}

/// Element `index` of a CUDA-style fill by the formula in float64, and its radius.
func plainCUDANormal(
    _ index: Int, of count: Int, seed: UInt64, offset: UInt64, maximumBlocks: Int
) -> (normal: Double, radius: Double) {
    let threads = 256 * min((count + 255) / 256, maximumBlocks)
    let (round, place) = index.quotientAndRemainder(dividingBy: 4 * threads)
    let (component, thread) = place.quotientAndRemainder(dividingBy: threads)
    let counter = offset / 4 + UInt64(round)
    let words = plainPhilox(
        counter: [
            UInt32(truncatingIfNeeded: counter), UInt32(truncatingIfNeeded: counter >> 32), UInt32(thread), 0,
        ],
        key: [UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32)])
    let x = words[component & 2], y = words[component & 2 + 1]
    let u = Float(Double(Float(x)) * 0x1p-32 + 0x1p-33)
    let v = Float((Double(Float(y)) + 0.5) * Double(Float(0x1p-32) * Float(2 * Double.pi)))
    let radius = (-2 * log(Double(u))).squareRoot()
    return (radius * (component & 1 == 0 ? sin(Double(v)) : cos(Double(v))), radius)
}

// SPDX-License-Identifier: Apache-2.0

import Foundation

@testable import DiffusionScheduling

/// The records of `Tests/Goldens/generate.py`, which documents the fields.
struct GoldenFile: Decodable {
    let coverage: [String: [String: Int]]
    let records: [GoldenRecord]

    static func load(_ name: String) throws -> GoldenFile {
        try JSONDecoder().decode(GoldenFile.self, from: data(name))
    }

    static func data(_ name: String) throws -> Data {
        let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        return try Data(contentsOf: tests.appending(path: "Goldens/\(name).json"))
    }
}

struct GoldenRecord: Decodable {
    struct Coefficients: Decodable {
        let index: Int
        let order: Int
        let a: Double
        let b: [Double]
        let c: Double
    }

    let configText: String
    let given: [String: String]?
    let n: Int
    let mu: Double?
    let timesteps: [Double]
    let loose: Set<Int>
    let sigmas: [Double]
    let coefficients: [Coefficients]
    let finalExact: [Double]
    let finalFloat64: [Double]
    let finalFloat32: [Double]

    private enum CodingKeys: String, CodingKey {
        case configText = "config_text", given, n, mu, timesteps, loose, sigmas, coefficients
        case finalExact = "final_exact", finalFloat64 = "final_float64", finalFloat32 = "final_float32"
    }

    init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        configText = try container.decode(String.self, forKey: .configText)
        given = try container.decodeIfPresent([String: String].self, forKey: .given)
        n = try container.decode(Int.self, forKey: .n)
        mu = try container.decodeIfPresent(Double.self, forKey: .mu)
        timesteps = try container.decode([Double].self, forKey: .timesteps)
        loose = Set(try container.decode([Int].self, forKey: .loose))
        sigmas = try Self.numbers(Float.self, container.decode(Data.self, forKey: .sigmas)).map(Double.init)
        coefficients = try container.decode([Coefficients].self, forKey: .coefficients)
        finalExact = try Self.numbers(Double.self, container.decode(Data.self, forKey: .finalExact))
        finalFloat64 = try Self.numbers(Double.self, container.decode(Data.self, forKey: .finalFloat64))
        finalFloat32 = try Self.numbers(Double.self, container.decode(Data.self, forKey: .finalFloat32))
    }

    static func numbers<Number: BitwiseCopyable>(_ type: Number.Type, _ data: Data) -> [Number] {
        data.withUnsafeBytes { bytes in
            stride(from: 0, to: bytes.count, by: MemoryLayout<Number>.size).map {
                bytes.loadUnaligned(fromByteOffset: $0, as: Number.self)
            }
        }
    }

    var request: TimestepRequest { .count(n, mu: mu) }
}

/// The test problem of the goldens: 2 batch items of 12 elements, and a model that isn't linear in the sample.
enum GoldenProblem {
    static let batchSize = 2
    static let elementCount = 24
    /// The variance of every element if the model predicts one.
    static let variance = 0.5

    static var initialSample: [Double] { (0..<elementCount).map { j -> Double in Double((37 * j + 11) % 128) / 32 - 2 } }

    static func noise(step i: Int) -> [Double] {
        (0..<elementCount).map { j -> Double in
            let pattern: Int = 53 * (i + 1) * (j + 1) + 29 * i + 7
            return Double(pattern % 256) / 64 - 2
        }
    }

    static func model(_ x: Double, timestep: Double, trainingCount: Int) -> Double {
        0.8 * x / (1 + 0.25 * x * x) + 0.3 * (timestep / Double(trainingCount)) - 0.1
    }
}

extension [Double] {
    /// The largest difference, relative to max(1, |expected|).
    func deviation(from expected: [Double]) -> Double {
        var greatest = 0.0
        for (value, exact) in zip(self, expected) {
            let deviation = abs(value - exact) / Swift.max(1, abs(exact))
            if deviation.isNaN { return .nan }
            greatest = Swift.max(greatest, deviation)
        }
        return greatest
    }

    /// The root of the mean squared difference.
    func rootMeanSquareError(from expected: [Double]) -> Double {
        (zip(self, expected).map { ($0 - $1) * ($0 - $1) }.reduce(0, +) / Double(count)).squareRoot()
    }
}

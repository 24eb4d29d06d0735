// SPDX-License-Identifier: Apache-2.0

/// One seed for a whole batch, or one for each of its items.
public enum NoiseSamplerSeed: ConfigurationValue {
    /// A seed for all items together.
    case one(Int)
    /// A seed for each item.
    case each([Int])

    /// The seeds.
    public var numbers: [Int] {
        switch self {
        case .one(let seed): [seed]
        case .each(let seeds): seeds
        }
    }

    public static var typeName: String { "\(Int.typeName) | \([Int].typeName)" }
    public static var allowedValues: String { "an integer or a list of integers" }

    /// The seeds of an integer or a list of integers.
    public init?(json: JSONValue) {
        if let seed = Int(json: json) {
            self = .one(seed)
        } else {
            guard let seeds = [Int](json: json) else { return nil }
            self = .each(seeds)
        }
    }

    /// An integer or a list of integers.
    public var json: JSONValue {
        switch self {
        case .one(let seed): seed.json
        case .each(let seeds): seeds.json
        }
    }
}

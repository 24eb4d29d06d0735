// SPDX-License-Identifier: Apache-2.0

/// A tensor that a row may read.
public enum Stream: Hashable, Sendable {
    /// x, the sample before the row.
    case sample
    /// e, the model output; in a guided step, the guided one.
    case modelOutput
    /// z, standard normal numbers.
    case noise
    /// p, the predicted clean sample after the clamp; computed on the way, without a tensor.
    case prediction
    /// The contents of a slot, from 0 on, as an earlier row stored them.
    case slot(Int)
}

/// The coefficients of a sum of tensors. A coefficient of 0 means that the tensor isn't read.
///
/// The sum goes in this order: sample, model output, noise, the slots from the most recently stored one to the oldest, prediction.
public struct Combination: Sendable, Equatable {
    /// The most slots that a row may read.
    public static let maximumSlotCount = 6

    /// The coefficient of x.
    public var sample: Double
    /// The coefficient of e.
    public var modelOutput: Double
    /// The coefficient of z.
    public var noise: Double
    /// The coefficient of p.
    public var prediction: Double
    /// The coefficients of the slots by number. Inline rather than in an array, so that combinations and rows are copied without
    /// counting references.
    public var slots: InlineArray<6, Double>

    /// A sum without slots.
    public init(sample: Double = 0, modelOutput: Double = 0, noise: Double = 0, prediction: Double = 0) {
        self.sample = sample
        self.modelOutput = modelOutput
        self.noise = noise
        self.prediction = prediction
        slots = .init(repeating: 0)
    }

    /// A sum of tensors and slots.
    ///
    /// - Precondition: at most ``maximumSlotCount`` slots; further slots have the coefficient 0.
    public init(
        sample: Double = 0, modelOutput: Double = 0, noise: Double = 0, prediction: Double = 0, slots: [Double]
    ) {
        self.init(sample: sample, modelOutput: modelOutput, noise: noise, prediction: prediction)
        for (slot, coefficient) in slots.enumerated() { self.slots[slot] = coefficient }
    }

    /// The coefficient of a stream.
    ///
    /// - Precondition: a slot is less than ``maximumSlotCount``.
    public subscript(stream: Stream) -> Double {
        get {
            switch stream {
            case .sample: sample
            case .modelOutput: modelOutput
            case .noise: noise
            case .prediction: prediction
            case .slot(let slot): slots[slot]
            }
        }
        set {
            switch stream {
            case .sample: sample = newValue
            case .modelOutput: modelOutput = newValue
            case .noise: noise = newValue
            case .prediction: prediction = newValue
            case .slot(let slot): slots[slot] = newValue
            }
        }
    }

    /// One stream with the coefficient 1.
    public init(_ stream: Stream) {
        self.init()
        self[stream] = 1
    }

    /// The streams with their coefficients, without those that aren't read; slots by their numbers.
    public var terms: [(stream: Stream, coefficient: Double)] {
        let streams: [Stream] = [.sample, .modelOutput, .noise] + slots.indices.map { .slot($0) } + [.prediction]
        return streams.map { ($0, self[$0]) }.filter { $0.1 != 0 }
    }

    var isFinite: Bool {
        // c − c isn't 0 if a coefficient c is infinite or NaN.
        var sum = (sample - sample) + (modelOutput - modelOutput) + (noise - noise) + (prediction - prediction)
        for slot in slots.indices { sum += slots[slot] - slots[slot] }
        return sum == 0
    }

    /// The slots that are read: bit k for slot k.
    var slotSet: UInt8 {
        var set: UInt8 = 0
        for slot in slots.indices where slots[slot] != 0 { set |= 1 << UInt8(slot) }
        return set
    }

    public static func == (a: Combination, b: Combination) -> Bool {
        a.sample == b.sample && a.modelOutput == b.modelOutput && a.noise == b.noise && a.prediction == b.prediction
            && a.slots.indices.allSatisfy { a.slots[$0] == b.slots[$0] }
    }

    // MARK: Arithmetic

    /// The sum of two combinations, coefficient by coefficient: (a + b)_s = a_s + b_s for every stream s.
    public static func + (a: Combination, b: Combination) -> Combination {
        var sum = Combination(
            sample: a.sample + b.sample, modelOutput: a.modelOutput + b.modelOutput, noise: a.noise + b.noise,
            prediction: a.prediction + b.prediction)
        for slot in sum.slots.indices { sum.slots[slot] = a.slots[slot] + b.slots[slot] }
        return sum
    }

    /// A multiple of a combination: (f a)_s = f a_s for every stream s.
    public static func * (factor: Double, a: Combination) -> Combination {
        var product = Combination(
            sample: factor * a.sample, modelOutput: factor * a.modelOutput, noise: factor * a.noise,
            prediction: factor * a.prediction)
        for slot in product.slots.indices { product.slots[slot] = factor * a.slots[slot] }
        return product
    }

    /// The combination a with another one, b, in the place of a stream s: a' = a − a_s s + a_s b.
    public func replacing(_ stream: Stream, by other: Combination) -> Combination {
        let coefficient = self[stream]
        if coefficient == 0 { return self }
        var rest = self
        rest[stream] = 0
        return rest + coefficient * other
    }
}

// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling

/// The tensors that calls take, by the names of their arguments in C.
enum TensorName: UInt8 {
    case sample, modelOutput, noise, nextSample, report, modelInput, output, guided, conditional, unconditional
    case slot0, slot1, slot2, slot3, slot4, slot5
    case store0, store1

    static func slot(_ index: Int) -> TensorName { TensorName(rawValue: slot0.rawValue + UInt8(index))! }
    static func store(_ index: Int) -> TensorName { index == 0 ? store0 : store1 }

    var text: String {
        switch self {
        case .sample: "sample"
        case .modelOutput: "model_output"
        case .noise: "noise"
        case .nextSample: "prev_sample"
        case .report: "pred_original_sample"
        case .modelInput: "model_input"
        case .output: "out"
        case .guided: "guided"
        case .conditional: "conditional"
        case .unconditional: "unconditional"
        case .store0: "stores[0]"
        case .store1: "stores[1]"
        case .slot0, .slot1, .slot2, .slot3, .slot4, .slot5: "slots[\(rawValue - TensorName.slot0.rawValue)]"
        }
    }
}

extension ElementType {
    /// One line per type, here and in `savedNumber`; a test of the numbers checks that none is missing.
    @inline(__always)
    init?(_ type: ds_element_type) {
        switch type {
        case DS_FLOAT32: self = .float32
        case DS_FLOAT64: self = .float64
        case DS_FLOAT16: self = .float16
        case DS_BFLOAT16: self = .bfloat16
        default: return nil
        }
    }
}

/// A checked tensor in the caller's memory.
struct Tensor {
    /// For an empty tensor, an arbitrary address that is never read.
    let address: UnsafeMutableRawPointer
    let elementCount: Int
    let rank: Int
    private let shape: UnsafePointer<Int64>?
    let elementType: ElementType
    let name: TensorName

    /// - Parameter first: a checked tensor of the same call; a shape shared with it isn't checked again.
    @inline(__always)
    init(_ tensor: UnsafePointer<ds_tensor>?, _ name: TensorName, like first: Tensor? = nil) throws {
        guard let tensor else { throw CallError.nullPointer(argument: name.text) }
        self.name = name
        guard let elementType = ElementType(tensor.pointee.element_type) else {
            throw CallError.unknownElementType(argument: name.text, number: tensor.pointee.element_type.rawValue)
        }
        self.elementType = elementType
        rank = tensor.pointee.rank
        shape = UnsafePointer(tensor.pointee.shape)
        if let first, first.shape == shape, first.rank == rank, first.elementType.size >= elementType.size {
            elementCount = first.elementCount
        } else {
            elementCount = try Self.elementCount(tensor.pointee, elementType, name)
        }
        guard elementCount > 0 else {
            address = UnsafeMutableRawPointer(bitPattern: 64)!
            return
        }
        guard let data = tensor.pointee.data else { throw CallError.nullPointer(argument: "the data of \(name.text)") }
        let place = UInt(bitPattern: data), size = UInt(bitPattern: elementType.size)
        guard place & (size - 1) == 0 else { throw CallError.misaligned(argument: name.text, alignment: elementType.size) }
        guard !place.addingReportingOverflow(UInt(bitPattern: elementCount) &* size).overflow else {
            throw CallError.tooLarge(argument: name.text)
        }
        address = data
    }

    @inline(__always)
    static func optional(
        _ tensor: UnsafePointer<ds_tensor>?, _ name: TensorName, like first: Tensor? = nil
    ) throws -> Tensor? {
        tensor == nil ? nil : try Tensor(tensor, name, like: first)
    }

    @inline(never)
    private static func elementCount(_ tensor: ds_tensor, _ type: ElementType, _ name: TensorName) throws -> Int {
        // C's ranks above Int.max arrive negative.
        guard (0...Int(DS_MAX_RANK)).contains(tensor.rank) else {
            throw CallError.invalidShape(
                argument: name.text, reason: "its rank is \(UInt(bitPattern: tensor.rank)), but must be at most \(DS_MAX_RANK)")
        }
        if tensor.rank == 0 { return 1 }
        guard let shape = tensor.shape else { throw CallError.nullPointer(argument: "the shape of \(name.text)") }
        var count: Int64 = 1, overflow = false, isEmpty = false
        for axis in 0..<tensor.rank {
            let extent = shape[axis]
            guard extent >= 0 else {
                throw CallError.invalidShape(
                    argument: name.text, reason: "the extent of axis \(axis) is \(extent), but must be at least 0")
            }
            isEmpty = isEmpty || extent == 0
            let product = count.multipliedReportingOverflow(by: extent)
            count = product.partialValue
            overflow = overflow || product.overflow
        }
        if isEmpty { return 0 }
        guard !overflow, let count = Int(exactly: count), count <= Int.max / type.size else {
            throw CallError.tooLarge(argument: name.text)
        }
        return count
    }

    /// The number of batch items, for operations on each of them.
    var batchSize: Int { rank >= 2 && elementCount > 0 ? Int(shape![0]) : 1 }

    /// The extent of axis 0; 1 for rank 0.
    var axis0Count: Int { rank >= 1 ? Int(shape![0]) : 1 }

    private var byteCount: Int { elementCount &* elementType.size }

    // MARK: Checks against another tensor

    /// - Parameter isTwiceAllowed: whether the channel axis may be twice as long; only its first half counts.
    /// - Returns: whether the axis is twice as long.
    @inline(__always)
    func requireShape(of other: Tensor, orTwiceAlong isTwiceAllowed: Bool = false) throws -> Bool {
        if shape == other.shape, rank == other.rank { return false }
        return try compareShape(with: other, isTwiceAllowed)
    }

    @inline(__always)
    func requireTypeAndShape(of other: Tensor) throws {
        guard elementType == other.elementType else {
            throw SchedulerError.wrongElementType(
                argument: name.text, type: elementType.rawValue, expected: "\(other.elementType.rawValue), like \(other.name.text)")
        }
        _ = try requireShape(of: other)
    }

    @inline(never)
    private func compareShape(with other: Tensor, _ isTwiceAllowed: Bool) throws -> Bool {
        let doubled = isTwiceAllowed && rank > 0 ? min(1, rank - 1) : -1
        var isSame = rank == other.rank, isTwice = false
        if isSame {
            for axis in 0..<rank {
                let extent = shape![axis], expected = other.shape![axis]
                if extent == expected { continue }
                if axis == doubled, extent % 2 == 0, extent / 2 == expected {
                    isTwice = true
                } else {
                    isSame = false
                }
            }
        }
        guard isSame else {
            let half = doubled >= 0 ? ", or twice the extent of axis \(doubled)" : ""
            throw CallError.shapeMismatch(
                argument: name.text, shape: shapeText, expected: "\(other.shapeText), like \(other.name.text)\(half)")
        }
        return isTwice
    }

    /// Checks that writing this tensor changes no element of an input before it is read: the two have the same elements or share no
    /// memory.
    @inline(__always)
    func requireNoPartialOverlap(with input: Tensor) throws {
        if address == input.address, byteCount == input.byteCount { return }
        try requireNoOverlap(with: input)
    }

    /// Checks that two tensors share no memory.
    ///
    /// - Parameter isInPlace: whether the message offers a step in place: the same memory for both.
    @inline(__always)
    func requireNoOverlap(with other: Tensor, orInPlace isInPlace: Bool = true) throws {
        let isApart = address + byteCount <= other.address || other.address + other.byteCount <= address
        if isApart || elementCount == 0 || other.elementCount == 0 { return }
        throw CallError.overlap(output: name.text, other: other.name.text, orInPlace: isInPlace)
    }

    private var shapeText: String { "[\((0..<rank).map { String(shape![$0]) }.joined(separator: ", "))]" }
}

extension StepTensors {
    /// The tensors of a step, each checked, also against each other; valid during the call.
    @inline(__always)
    init(
        sample: Tensor, modelOutput: UnsafePointer<ds_tensor>?, called outputName: TensorName = .modelOutput,
        unconditional: Tensor? = nil, noise: UnsafePointer<ds_tensor>?, nextSample: UnsafePointer<ds_tensor>?,
        report: UnsafePointer<ds_tensor>?, modelInput: Tensor? = nil,
        modelLearnsVariance: Bool
    ) throws {
        let modelOutput = try Tensor(modelOutput, outputName, like: sample)
        let isTwice = try modelOutput.requireShape(of: sample, orTwiceAlong: modelLearnsVariance)
        try unconditional?.requireTypeAndShape(of: modelOutput)
        let noise = try Tensor.optional(noise, .noise, like: sample)
        try noise?.requireTypeAndShape(of: sample)
        let inputs = Inputs(sample: sample, modelOutput: modelOutput, unconditional: unconditional, noise: noise, isTwice: isTwice)
        let nextSample = try Tensor(nextSample, .nextSample, like: sample)
        try inputs.check(nextSample)
        let report = try Tensor.optional(report, .report, like: sample)
        if let report {
            try inputs.check(report)
            try report.requireNoOverlap(with: nextSample)
        }
        if let modelInput {
            try modelInput.requireTypeAndShape(of: sample)
            for other in [sample, modelOutput, unconditional, noise, nextSample, report] {
                if let other { try modelInput.requireNoOverlap(with: other, orInPlace: false) }
            }
        }
        self.init(
            elementType: sample.elementType, elementCount: sample.elementCount, sample: sample.address,
            modelOutput: modelOutput.address, modelOutputType: modelOutput.elementType, modelOutputCount: modelOutput.elementCount,
            unconditional: unconditional?.address, noise: noise?.address, nextSample: nextSample.address,
            report: report?.address, modelInput: modelInput?.address)
    }

    /// The inputs that outputs are checked against.
    private struct Inputs {
        let sample: Tensor
        let modelOutput: Tensor
        let unconditional: Tensor?
        let noise: Tensor?
        let isTwice: Bool

        @inline(__always)
        func check(_ output: Tensor) throws {
            try output.requireTypeAndShape(of: sample)
            try output.requireNoPartialOverlap(with: sample)
            if let noise { try output.requireNoPartialOverlap(with: noise) }
            try check(output, against: modelOutput)
            if let unconditional { try check(output, against: unconditional) }
        }

        /// Items of a model output with variances differ in size from an output's items, so a step in place is impossible.
        @inline(__always)
        private func check(_ output: Tensor, against modelOutput: Tensor) throws {
            if isTwice {
                try output.requireNoOverlap(with: modelOutput)
            } else {
                try output.requireNoPartialOverlap(with: modelOutput)
            }
        }
    }
}

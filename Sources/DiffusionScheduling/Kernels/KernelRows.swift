// SPDX-License-Identifier: Apache-2.0

internal import CKernels

/// A plan's rows in the form that the kernels read, in one block of memory that never changes.
///
/// Taking a step then costs an index, no reference counting and no allocation.
final class KernelRows: @unchecked Sendable {
    // Unchecked, because the memory is written by the initialiser alone.

    /// The slots a kernel row has for remembered outputs.
    static var maximumHistory: Int { Int(DSK_INPUT_COUNT.rawValue) - Int(DSK_SLOT_1.rawValue) }

    private let rows: UnsafeMutablePointer<dsk_row>
    private let count: Int
    private let choices: Int

    init(rows: [[StepCoefficients]], clamp: PredictionClamp, historyLength: Int) {
        choices = historyLength + 1
        count = rows.count * choices
        self.rows = .allocate(capacity: max(count, 1))
        for (index, available) in rows.enumerated() {
            for remembered in 0..<choices {
                let row = dsk_row(available[min(remembered, available.count - 1)], clamp: clamp)
                (self.rows + index * choices + remembered).initialize(to: row)
            }
        }
    }

    deinit { rows.deallocate() }

    func row(at index: Int, remembered: Int) -> UnsafePointer<dsk_row> {
        UnsafePointer(rows + (index * choices + min(remembered, choices - 1)))
    }

    func needsNoise(at index: Int, remembered: Int) -> Bool {
        let row = row(at: index, remembered: remembered)
        return row.pointee.outputs.0.3 != 0 || row.pointee.prediction.3 != 0
    }

    /// Whether what a step of the row remembers is the model output as it is.
    static func remembersModelOutput(_ row: UnsafePointer<dsk_row>) -> Bool {
        let history = row.pointee.outputs.1
        return history.0 == 0 && history.1 == 1 && history.3 == 0 && history.10 == 0
    }
}

/// The outputs that a kernel computes for a step.
enum StepOutput: Int {
    case nextSample = 0
    case history = 1
    case prediction = 2
}

extension dsk_row {
    init(_ step: StepCoefficients, clamp: PredictionClamp) {
        self.init()
        switch clamp {
        case .none: self.clamp = DSK_CLAMP_NONE
        case .range(let limit):
            self.clamp = DSK_CLAMP_RANGE
            clamp_range = limit
        case .dynamicThreshold(let ratio, let maximum):
            self.clamp = DSK_CLAMP_THRESHOLD
            threshold_ratio = ratio
            threshold_maximum = maximum
        }
        prediction.0 = step.prediction.sample
        prediction.1 = step.prediction.modelOutput
        prediction.3 = step.prediction.noise
        set(.nextSample, to: step.nextSample)
        if let history = step.history { set(.history, to: history) }
        // Unclamped, it is a combination like others: beside a sample that doesn't use it, it needs no value of its own in the loop.
        set(.prediction, to: clamp == .none ? step.prediction : LinearCombination(prediction: 1))
    }

    private mutating func set(_ output: StepOutput, to combination: LinearCombination) {
        withUnsafeMutableBytes(of: &outputs) { bytes in
            let terms = Int(DSK_TERM_COUNT.rawValue)
            let row = bytes.bindMemory(to: Double.self)[output.rawValue * terms..<(output.rawValue + 1) * terms]
            func place(_ input: dsk_input) -> Int { row.startIndex + Int(input.rawValue) }
            let all = bytes.bindMemory(to: Double.self)
            all[place(DSK_SAMPLE)] = combination.sample
            all[place(DSK_MODEL_OUTPUT)] = combination.modelOutput
            all[place(DSK_NOISE)] = combination.noise
            all[place(DSK_PREDICTION)] = combination.prediction
            for (age, coefficient) in combination.history.enumerated() {
                all[place(DSK_SLOT_1) + age] = coefficient
            }
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

internal import CKernels
internal import DeviceKernels

/// A row in the form that kernels on devices read: a record of a plan's table, see `device_table.h`.
package struct DeviceRow: BitwiseCopyable {
    package static let byteCount = DS_DEVICE_ROW_BYTES

    private var record = ds_device_row()

    /// The record of free places in a batch: its step leaves the sample unchanged, and is followed by itself.
    package static var free: DeviceRow {
        var row = DeviceRow(evaluation: -1, timestep: 0, inputScale: 1)
        row.set(DS_DEVICE_NEXT_SAMPLE) { $0 == DS_DEVICE_SAMPLE ? 1 : 0 }
        return row
    }

    private init(evaluation: Int, timestep: Double, inputScale: Double) {
        record.evaluation = Int32(evaluation)
        record.timestep = timestep
        record.input_scale = inputScale
        withUnsafeMutableBytes(of: &record.reads) { $0.bindMemory(to: Int32.self).update(repeating: -1) }
        record.stores = (-1, -1)
    }

    /// - Parameters:
    ///   - row: the row that the host's kernels run; it stores to its slots.
    ///   - next: the number of the next step's record.
    init(_ row: KernelRow, evaluation: Int, timestep: Double, inputScale: Double, drawCount: Int, next: Int) {
        self.init(evaluation: evaluation, timestep: timestep, inputScale: inputScale)
        let scalars = row.row.row
        record.next = Int32(next)
        record.clamp = Int32(scalars.clamp.rawValue)
        record.clamp_range = scalars.clamp_range
        record.threshold_ratio = scalars.threshold_ratio
        record.threshold_maximum = scalars.threshold_maximum
        record.noise_factor = Int32(scalars.noise_factor.rawValue)
        record.noise_offset = scalars.noise_offset
        record.noise_slope = scalars.noise_slope
        record.n_noise_draws = Int32(drawCount)
        record.reads_noise = row.needsNoise ? 1 : 0
        for place in 0..<row.slotCount { setRead(place, to: row.slots[place]) }
        if row.storeCount > 0 { record.stores.0 = Int32(row.stores[0]) }
        if row.storeCount > 1 { record.stores.1 = Int32(row.stores[1]) }
        record.prediction = (scalars.prediction.0, scalars.prediction.1, scalars.prediction.3, 0)
        withUnsafeBytes(of: scalars.outputs) { bytes in
            let outputs = bytes.bindMemory(to: KernelRow.Terms.self)
            set(DS_DEVICE_NEXT_SAMPLE, to: outputs[0])
            for place in 0..<row.storeCount { set(DS_DEVICE_STORES + place, to: outputs[1 + place]) }
        }
        set(DS_DEVICE_REPORT, to: row.report)
        setPredictionParts()
    }

    /// The record of a row outside a plan: a step that ends a run.
    ///
    /// - Parameters: as for ``PreparedRow``.
    /// - Throws: `invalidValue` for a row that no plan may have, or a slot's number that is out of range.
    package init(
        _ row: PlanRow, clamp: PredictionClamp, order: some Collection<Int> = [], modelLearnsVariance: Bool
    ) throws(SchedulerError) {
        let kernelRow = try KernelRow(row, clamp: clamp, order: order, modelLearnsVariance: modelLearnsVariance)
        self.init(kernelRow, evaluation: 0, timestep: 0, inputScale: 1, drawCount: row.drawCount, next: 0)
    }

    private mutating func setRead(_ place: Int, to slot: UInt8) {
        withUnsafeMutableBytes(of: &record.reads) { $0.bindMemory(to: Int32.self)[place] = Int32(slot) }
    }

    /// Sets an output's coefficients to those of the host's kernels, which also have a place for a second model output.
    private mutating func set(_ output: Int, to terms: KernelRow.Terms) {
        withUnsafeBytes(of: terms) { bytes in
            let terms = bytes.bindMemory(to: Double.self)
            set(output) { place in
                switch place {
                case DS_DEVICE_SAMPLE: terms[Int(DSK_SAMPLE.rawValue)]
                case DS_DEVICE_MODEL_OUTPUT: terms[Int(DSK_MODEL_OUTPUT.rawValue)]
                case DS_DEVICE_NOISE: terms[Int(DSK_NOISE.rawValue)]
                case DS_DEVICE_PREDICTION: terms[Int(DSK_PREDICTION.rawValue)]
                default: terms[Int(DSK_SLOT_1.rawValue) + place - DS_DEVICE_SLOTS]
                }
            }
        }
        if terms.11 != 0 { record.uses_prediction = 1 }
    }

    /// Sets an output's coefficients, each whole and in parts.
    private mutating func set(_ output: Int, coefficient: (Int) -> Double) {
        let count = DS_DEVICE_TERMS
        for place in 0..<count {
            let whole = coefficient(place), parts = Self.parts(whole), index = output * count + place
            withUnsafeMutableBytes(of: &record.outputs) { $0.bindMemory(to: Double.self)[index] = whole }
            withUnsafeMutableBytes(of: &record.output_parts) { $0.bindMemory(to: (Float, Float).self)[index] = parts }
        }
    }

    private mutating func setPredictionParts() {
        let whole = record.prediction
        record.prediction_parts = (Self.parts(whole.0), Self.parts(whole.1), Self.parts(whole.2), Self.parts(whole.3))
    }

    /// A number as the sum of two: the nearest float32 number, and the float32 number nearest to the remainder.
    private static func parts(_ whole: Double) -> (Float, Float) {
        let first = Float(whole)
        return (first, first.isFinite ? Float(whole - Double(first)) : 0)
    }
}

// SPDX-License-Identifier: Apache-2.0

import DeviceKernels
import Testing

@testable import DiffusionScheduling

/// The table that kernels on devices read, against its plan.
@Suite struct DeviceTableTests {
    private func records(_ table: [UInt8]) -> [ds_device_row] {
        table.withUnsafeBytes { bytes in
            (0..<bytes.count / DS_DEVICE_ROW_BYTES).map {
                bytes.loadUnaligned(fromByteOffset: $0 * DS_DEVICE_ROW_BYTES, as: ds_device_row.self)
            }
        }
    }

    private func elements<Numbers, Number>(_ numbers: Numbers, _ type: Number.Type) -> [Number] {
        withUnsafeBytes(of: numbers) { Array($0.bindMemory(to: type)) }
    }

    /// An output of a record as a combination.
    private func combination(_ record: ds_device_row, _ output: Int) -> Combination {
        let terms = elements(record.outputs, Double.self)[output * DS_DEVICE_TERMS..<(output + 1) * DS_DEVICE_TERMS]
        var result = Combination(
            sample: terms[terms.startIndex + DS_DEVICE_SAMPLE], modelOutput: terms[terms.startIndex + DS_DEVICE_MODEL_OUTPUT],
            noise: terms[terms.startIndex + DS_DEVICE_NOISE], prediction: terms[terms.startIndex + DS_DEVICE_PREDICTION])
        for (place, slot) in elements(record.reads, Int32.self).enumerated() where slot >= 0 {
            result.slots[Int(slot)] = terms[terms.startIndex + DS_DEVICE_SLOTS + place]
        }
        return result
    }

    private func expectRecord(_ record: ds_device_row, of plan: SamplingPlan, at index: Int, age: Int) {
        let row = plan.row(at: index, age: age)
        let place = Comment(rawValue: "evaluation \(index) at the age \(age)")
        #expect(record.evaluation == index, place)
        #expect(record.timestep == plan.timesteps[index] && record.input_scale == plan.inputScales[index], place)
        #expect(elements(record.reads, Int32.self).filter { $0 >= 0 }.map(Int.init) == plan.reads(at: index, age: age), place)
        #expect(elements(record.stores, Int32.self).filter { $0 >= 0 }.map(Int.init) == row.stores.map(\.slot), place)
        #expect(combination(record, DS_DEVICE_NEXT_SAMPLE) == row.nextSample, place)
        for (store, value) in row.stores.map(\.value).enumerated() {
            #expect(combination(record, DS_DEVICE_STORES + store) == value, place)
        }
        let told = row.report ?? (plan.clamp == .none ? row.prediction : Combination(prediction: 1))
        #expect(combination(record, DS_DEVICE_REPORT) == told, place)
        let p = row.prediction
        #expect(elements(record.prediction, Double.self) == [p.sample, p.modelOutput, p.noise, 0], place)
        #expect(record.n_noise_draws == row.drawCount && (record.reads_noise != 0) == row.needsNoise, place)
        let readsPrediction = [row.nextSample, told] + row.stores.map(\.value)
        #expect((record.uses_prediction != 0) == readsPrediction.contains { $0.prediction != 0 }, place)
    }

    /// The two parts of a coefficient hold it up to 2⁻⁴⁸.
    private func expectParts(_ record: ds_device_row) {
        let wholes = elements(record.prediction, Double.self) + elements(record.outputs, Double.self)
        let parts = elements(record.prediction_parts, Float.self) + elements(record.output_parts, Float.self)
        for (index, whole) in wholes.enumerated() {
            #expect(parts[2 * index] == Float(whole))
            let sum = Double(parts[2 * index]) + Double(parts[2 * index + 1])
            #expect((sum - whole).magnitude <= max(whole.magnitude * 0x1p-48, 0x1p-149))
        }
    }

    /// A run follows `next` from any start to the record of free places.
    @Test func runs() throws {
        for plan in try SessionRowsTests.plans() {
            let table = records(try plan.deviceTable())
            #expect(table.count == plan.deviceRecordCount)
            table.forEach(expectParts)
            for begin in plan.starts {
                var record = plan.deviceRecord(ofEvaluation: begin)
                for index in begin..<plan.stepCount {
                    expectRecord(table[record], of: plan, at: index, age: index - begin)
                    #expect(record == plan.deviceRecord(ofEvaluation: index, age: index - begin))
                    record = Int(table[record].next)
                }
                #expect(record == 0)
            }
        }
    }

    @Test func clamps() throws {
        let clipped = records(try makeDDIM { ($0.clipSample, $0.clipSampleRange) = (true, 2) }.plan(.count(3)).deviceTable())
        #expect(clipped[1].clamp == 1 && clipped[1].clamp_range == 2 && clipped[1].uses_prediction == 1)
        let thresholding = try makeDEIS { ($0.thresholding, $0.dynamicThresholdingRatio, $0.sampleMaxValue) = (true, 0.9, 3) }
        let thresholded = records(try thresholding.plan(.count(3)).deviceTable())
        #expect(thresholded[1].clamp == 2 && thresholded[1].threshold_ratio == 0.9 && thresholded[1].threshold_maximum == 3)
        let learned = try SchedulerCatalog.makeScheduler(
            json: #"{"_class_name": "DDPMScheduler", "variance_type": "learned_range"}"#)
        let factors = records(try learned.plan(.count(3)).deviceTable())
        #expect(factors[1].noise_factor == 2 && factors[1].noise_offset.isFinite && factors[1].noise_slope > 0)
    }

    @Test func freePlaces() throws {
        let free = records(try makeDDIM().plan(.count(2)).deviceTable())[0]
        #expect(free.next == 0 && free.evaluation == -1 && free.input_scale == 1 && free.uses_prediction == 0)
        #expect(combination(free, DS_DEVICE_NEXT_SAMPLE) == Combination(sample: 1))
        #expect(elements(free.stores, Int32.self) == [-1, -1])
    }

    /// Every step of a joined table leads to a record of its own plan, the last one to the first table's free places.
    @Test func joinedTables() throws {
        let plan = try makeDEIS { $0.solverOrder = 3 }.plan(.count(6))
        let alone = records(try plan.deviceTable()), joined = records(try plan.deviceTable(firstRecord: 100))
        for (one, other) in zip(alone, joined) { #expect(other.next == (one.next == 0 ? 0 : one.next + 100)) }
        for number in [-1, Int.max, Int(Int32.max)] {
            #expect(throws: SchedulerError.self) { try plan.deviceTable(firstRecord: number) }
        }
    }
}

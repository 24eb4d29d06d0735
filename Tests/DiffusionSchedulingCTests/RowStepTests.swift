// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling
import Foundation
import Testing

@testable import DiffusionSchedulingC

/// Runs that are stepped by rows with the caller's tensors as slots have the bits of the session's.
@Suite struct RowStepTests {
    static let configurations =
        SessionStateTests.configurations + [
            #"{"_class_name": "DEISMultistepScheduler", "solver_order": 2, "thresholding": true, "sample_max_value": 2.0}"#,
            #"{"_class_name": "DEISMultistepScheduler", "use_flow_sigmas": true, "prediction_type": "flow_prediction"}"#,
            #"{"_class_name": "DPMSolverMultistepScheduler", "variance_type": "learned_range", "solver_order": 3}"#,
            #"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 2}"#,
            #"{"_class_name": "DDIMScheduler", "clip_sample": false, "thresholding": true}"#,
        ]
        // Classes that are added later are run as they are by default.
        + SchedulerCatalog.supportedClassNames.filter { name in
            !SessionStateTests.configurations.contains { $0.contains("\"\(name)\"") }
        }.map { "{\"_class_name\": \"\($0)\"}" }

    @Test(arguments: configurations) func bitsOfSessions(_ json: String) throws {
        for beginIndex in [0, 2] {
            try Self.run(json, Float.self, beginIndex)
            try Self.run(json, Double.self, beginIndex)
            #if !((os(macOS) || targetEnvironment(macCatalyst)) && arch(x86_64))
                try Self.run(json, Float16.self, beginIndex)
            #endif
        }
    }

    static let shape: [Int64] = [2, 3, 4]

    static func run<Element: TensorElement & BinaryFloatingPoint>(
        _ json: String, _: Element.Type, _ beginIndex: Int
    ) throws {
        let count = 24, scheduler = try makeScheduler(json)
        defer { ds_scheduler_free(scheduler) }
        try call(ds_scheduler_set_timesteps(scheduler, 6, nil))
        var properties = ds_plan_properties(), session = ds_session()
        try call(ds_scheduler_plan_properties(scheduler, &properties))
        // A run can't begin within a step.
        guard ds_session_create(scheduler, beginIndex, &session) == DS_OK else { return }
        defer { ds_session_free(session) }
        // Slots in one array, in reversed order and behind one another; NaN until something is stored.
        var slots = [Element](repeating: .nan, count: Int(DS_MAX_SLOTS) * count)
        var x: [Element] = SessionStateTests.tensor(3, count: count), y = x
        let isTwice = properties.learns_variance
        for index in beginIndex..<properties.n_steps {
            var e: [Element] = SessionStateTests.tensor(index, count: isTwice ? 2 * count : count)
            var z: [Element] = SessionStateTests.tensor(100 + index, count: count)
            var p = [Element](repeating: .nan, count: count), q = p, row = ds_row(), needsNoise = false
            try call(ds_scheduler_row(scheduler, index, index - beginIndex, &row))
            try call(ds_session_needs_noise(session, &needsNoise))
            try withTensor(&e, shape: isTwice ? [2, 6, 4] : shape) { e in
                try withTensor(&z, shape: shape) { z in
                    try withTensor(&x, shape: shape) { x in
                        try withTensor(&p, shape: shape) { p in
                            try call(ds_session_step(session, e, x, needsNoise ? z : nil, x, p, 0))
                        }
                    }
                    try withTensor(&y, shape: shape) { y in
                        try withTensor(&q, shape: shape) { q in
                            try slots.withUnsafeMutableBytes { bytes in
                                let tensors = (0..<Int(DS_MAX_SLOTS)).map { slot in
                                    ds_tensor(
                                        data: bytes.baseAddress! + (Int(DS_MAX_SLOTS) - 1 - slot) * count
                                            * MemoryLayout<Element>.stride,
                                        element_type: ds_element_type(Element.elementType.savedNumber), rank: 3,
                                        shape: y.pointee.shape)
                                }
                                try call(
                                    ds_scheduler_row_step(
                                        scheduler, &row, e, y, needsNoise ? z : nil, tensors, properties.n_slots, y, q, 0))
                            }
                        }
                    }
                }
            }
            let bytes = (x + p).withUnsafeBytes { Array($0) }, others = (y + q).withUnsafeBytes { Array($0) }
            #expect(bytes == others, "step \(index) from \(beginIndex) in \(Element.self)")
        }
        #expect(!x.contains { $0.isNaN })
    }

    /// Slots beyond those of the plan: six that are read, two of them stored, by a row of the caller's; in NumPy's words the sums are
    /// written out here.
    @Test func aRowOfTheCallers() throws {
        let scheduler = try makeScheduler(#"{"_class_name": "DEISMultistepScheduler"}"#)
        defer { ds_scheduler_free(scheduler) }
        try call(ds_scheduler_set_timesteps(scheduler, 6, nil))
        var slots = (0..<6).map { [Double](repeating: Double($0 + 1), count: 3) }
        var x = [8.0, 16, 32], e = [0.5, 0.25, 0.125], next = [0.0, 0, 0], report = next
        var row = ds_row()
        row.prediction.sample = 1
        row.next_sample.sample = 2
        row.next_sample.model_output = 4
        row.next_sample.slots = (1, 2, 4, 8, 16, 32)
        row.report.prediction = 1
        row.report.slots.0 = 1
        row.n_stores = 2
        row.stores.0.slot = 5
        row.stores.0.value.slots.1 = 3
        row.stores.1.slot = 1
        row.stores.1.value.slots.5 = 1
        row.stores.1.value.model_output = 1
        row.n_reads = 1
        row.reads.0 = 4
        let shape: [Int64] = [3]
        func step(_ stores: Int) throws {
            row.n_stores = stores
            try shape.withUnsafeBufferPointer { shape in
                let tensors = slots.indices.map { slot in
                    // Kept by `slots`, whose arrays nobody else has.
                    slots[slot].withUnsafeMutableBufferPointer {
                        ds_tensor(data: $0.baseAddress, element_type: DS_FLOAT64, rank: 1, shape: shape.baseAddress)
                    }
                }
                try withTensor(&x) { x in
                    try withTensor(&e) { e in
                        try withTensor(&next) { next in
                            try withTensor(&report) {
                                try call(ds_scheduler_row_step(scheduler, &row, e, x, nil, tensors, 6, next, $0, 0))
                            }
                        }
                    }
                }
            }
        }
        // All stores are computed from the slots as they were before.
        try step(2)
        let sum = (0..<6).reduce(0.0) { $0 + Double(1 << $1) * Double($1 + 1) }
        #expect(next == zip(x, e).map { 2 * $0 + 4 * $1 + sum })
        #expect(report == x.map { $0 + 1 })
        #expect(slots[5] == [6, 6, 6] && slots[1] == e.map { $0 + 6 })
        #expect([0, 2, 3, 4].allSatisfy { slots[$0] == [Double](repeating: Double($0 + 1), count: 3) })
        // Without the stores nothing is stored.
        try step(0)
        #expect(slots[5] == [6, 6, 6] && slots[1] == e.map { $0 + 6 })
    }

    /// Without elements nothing is read or written, whatever the addresses.
    @Test func emptyTensors() throws {
        let scheduler = try makeScheduler(#"{"_class_name": "DEISMultistepScheduler", "solver_order": 3}"#)
        defer { ds_scheduler_free(scheduler) }
        try call(ds_scheduler_set_timesteps(scheduler, 6, nil))
        var row = ds_row()
        try call(ds_scheduler_row(scheduler, 3, 3, &row))
        #expect(row.n_reads > 0 && row.n_stores == 1)
        var nothing: [Float] = []
        try withTensor(&nothing, shape: [0, 4]) { x in
            let slots = [ds_tensor](repeating: x.pointee, count: 6)
            try call(ds_scheduler_row_step(scheduler, &row, x, x, nil, slots, 6, x, nil, 0))
        }
    }
}

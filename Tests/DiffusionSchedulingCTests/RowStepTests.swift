// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling
import Foundation
import Testing

@testable import DiffusionSchedulingC

/// Runs that step by rows, with the caller's tensors as slots, have the session's bits.
@Suite struct RowStepTests {
    static let configurations =
        SessionStateTests.configurations + [
            #"{"_class_name": "DEISMultistepScheduler", "solver_order": 2, "thresholding": true, "sample_max_value": 2.0}"#,
            #"{"_class_name": "DEISMultistepScheduler", "use_flow_sigmas": true, "prediction_type": "flow_prediction"}"#,
            #"{"_class_name": "DPMSolverMultistepScheduler", "variance_type": "learned_range", "solver_order": 3}"#,
            #"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 2}"#,
            #"{"_class_name": "DDIMScheduler", "clip_sample": false, "thresholding": true}"#,
            #"{"_class_name": "HeunDiscreteScheduler", "clip_sample": true}"#,
            #"{"_class_name": "PNDMScheduler", "skip_prk_steps": true}"#,
            #"{"_class_name": "UniPCMultistepScheduler", "solver_order": 1}"#,
            #"{"_class_name": "UniPCMultistepScheduler", "solver_order": 3, "disable_corrector": [2]}"#,
            #"{"_class_name": "UniPCMultistepScheduler", "solver_order": 5, "lower_order_final": false}"#,
            #"{"_class_name": "UniPCMultistepScheduler", "solver_order": 6, "predict_x0": false}"#,
        ]
        // Other classes of the catalogue run with their defaults.
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
        // Slots in one array, in reversed order, one behind the other; NaN until something is stored.
        var slots = [Element](repeating: .nan, count: Int(DS_MAX_SLOTS) * count)
        var x: [Element] = SessionStateTests.tensor(3, count: count), y = x
        let isTwice = properties.learns_variance
        for index in beginIndex..<properties.n_steps {
            var e: [Element] = SessionStateTests.tensor(index, count: isTwice ? 2 * count : count)
            let z: [Element] = SessionStateTests.tensor(100 + index, count: count)
            let empty = [Element](repeating: .nan, count: count)
            var row = ds_row(), needsNoise = false, own = [z, x, empty], others = [z, y, empty]
            try call(ds_scheduler_row(scheduler, index, index - beginIndex, &row))
            try call(ds_session_needs_noise(session, &needsNoise))
            try withTensor(&e, shape: isTwice ? [2, 6, 4] : shape) { e in
                try withTensors(&own, shape: shape) { t in
                    try call(ds_session_step(session, e, t[1], needsNoise ? t[0] : nil, t[1], t[2], 0))
                }
                try withTensors(&others, shape: shape) { t in
                    try slots.withUnsafeMutableBytes { bytes in
                        let views = slotViews(bytes, Element.self, like: t[1].pointee)
                        try call(
                            rowStep(
                                scheduler, &row, e, t[1], needsNoise ? t[0] : nil, views, properties.n_slots, nil, t[1], t[2], 0))
                    }
                }
            }
            (x, y) = (own[1], others[1])
            #expect(bytes(own) == bytes(others), "step \(index) from \(beginIndex) in \(Element.self)")
        }
        #expect(!x.contains { $0.isNaN })
    }

    private static func bytes<Element>(_ tensors: [[Element]]) -> [UInt8] {
        tensors.flatMap { tensor in tensor.withUnsafeBytes { Array($0) } }
    }

    /// Tensors over one array, the last slot first.
    private static func slotViews<Element: TensorElement>(
        _ bytes: UnsafeMutableRawBufferPointer, _: Element.Type, like sample: ds_tensor
    ) -> [ds_tensor] {
        let stride = bytes.count / Int(DS_MAX_SLOTS)
        return (0..<Int(DS_MAX_SLOTS)).map { slot in
            ds_tensor(
                data: bytes.baseAddress! + (Int(DS_MAX_SLOTS) - 1 - slot) * stride,
                element_type: ds_element_type(Element.elementType.savedNumber), rank: sample.rank, shape: sample.shape)
        }
    }

    /// The tensors that a diffusers object keeps: single ones, then a list's, newest first.
    private struct Attributes {
        let tensorCount: Int
        /// Whether rows read increments of one Brownian motion, and a step's rows begin at one level.
        let samplesMotion: Bool
        var slots: [[Double]]

        init(_ name: String, count: Int) throws {
            guard case .object(let description) = try SchedulerCatalog.description(ofClass: name),
                case .object(let attributes)? = description["attributes"], case .array(let tensors)? = attributes["tensors"]
            else { throw SchedulerError.unsupportedScheduler(name: name, supported: []) }
            tensorCount = tensors.count
            samplesMotion =
                if case .object(let motion)? = description["brownian_motion"] { motion["overlaps"] == true } else { false }
            slots = Array(repeating: Array(repeating: .nan, count: count), count: Int(DS_MAX_SLOTS))
        }

        /// A store to the history's first slot moves the others back.
        mutating func store(_ tensor: [Double], to slot: Int) {
            if slot == tensorCount { slots.insert(tensor, at: slot) } else { slots[slot] = tensor }
        }
    }

    /// The motion's increment over a whole step; each of the plan's two rows takes its share.
    private static func increment(
        _ scheduler: ds_scheduler, _ index: Int, before shorter: [Double], _ noise: [Double]
    ) throws -> [Double] {
        var first = ds_row(), second = ds_row()
        try call(ds_scheduler_row(scheduler, index - 1, index - 1, &first))
        try call(ds_scheduler_row(scheduler, index, index, &second))
        let shares = (first.stores.0.value.noise, second.next_sample.noise)
        let deviation = (shares.0 * shares.0 + shares.1 * shares.1).squareRoot()
        return zip(shorter, noise).map { (shares.0 * $0 + shares.1 * $1) / deviation }
    }

    /// Rows over diffusers' attributes, with stores in separate memory, lead to the same samples as the session's rows.
    @Test(arguments: configurations, [0, 2]) func attributesGiveTheSameRun(_ json: String, _ beginIndex: Int) throws {
        let count = 24, scheduler = try makeScheduler(json)
        defer { ds_scheduler_free(scheduler) }
        try call(ds_scheduler_set_timesteps(scheduler, 7, nil))
        var properties = ds_plan_properties(), session = ds_session()
        try call(ds_scheduler_plan_properties(scheduler, &properties))
        guard ds_session_create(scheduler, beginIndex, &session) == DS_OK else { return }
        defer { ds_session_free(session) }
        var attributes = try Attributes(scheduler.state.className, count: count)
        var x: [Double] = SessionStateTests.tensor(3, count: count), y = x, shorter: [Double] = []
        for index in beginIndex..<properties.n_steps {
            var e: [Double] = SessionStateTests.tensor(index, count: count)
            var z: [Double] = SessionStateTests.tensor(100 + index, count: count)
            var row = ds_row()
            try call(ds_scheduler_attribute_row(scheduler, index, index - beginIndex, &row))
            var motion = z
            if attributes.samplesMotion, index % 2 == 1 { motion = try Self.increment(scheduler, index, before: shorter, z) }
            shorter = z
            var stored = [Double](repeating: .nan, count: 2 * count), others = [motion, y, x]
            try withTensor(&e, shape: Self.shape) { e in
                try withTensor(&z, shape: Self.shape) { z in
                    try withTensor(&x, shape: Self.shape) { try call(ds_session_step(session, e, $0, z, $0, nil, 0)) }
                }
                try withTensors(&others, shape: Self.shape) { t in
                    func tensor(_ memory: inout [Double], _ offset: Int = 0) -> ds_tensor {
                        // The arrays keep the memory alive, and nobody else has it.
                        let address = memory.withUnsafeMutableBufferPointer { $0.baseAddress! + offset }
                        return ds_tensor(data: address, element_type: DS_FLOAT64, rank: 3, shape: t[0].pointee.shape)
                    }
                    let slots = (0..<Int(DS_MAX_SLOTS)).map { tensor(&attributes.slots[$0]) }
                    let stores = [tensor(&stored), tensor(&stored, count)]
                    try call(rowStep(scheduler, &row, e, t[1], t[0], slots, Int(DS_MAX_SLOTS), stores, t[2], nil, 0))
                }
            }
            y = others[2]
            let destinations = [row.stores.0.slot, row.stores.1.slot]
            for place in 0..<row.n_stores {
                attributes.store(Array(stored[place * count..<(place + 1) * count]), to: destinations[place])
            }
            if attributes.tensorCount == 0 {
                #expect(y == x, "step \(index)")
            } else {
                let scale = x.map(abs).max()!
                #expect(zip(x, y).allSatisfy { abs($0 - $1) <= 1e-12 * scale }, "step \(index)")
            }
        }
        #expect(!y.contains { $0.isNaN })
    }

    /// Stores keep the caller's order, and may not overlap another tensor.
    @Test func storesApartFromTheirSlots() throws {
        let scheduler = try makeScheduler(#"{"_class_name": "DEISMultistepScheduler"}"#)
        defer { ds_scheduler_free(scheduler) }
        try call(ds_scheduler_set_timesteps(scheduler, 6, nil))
        var row = ds_row(), memory = [Double](repeating: 0, count: 6), slot = [5.0, 5, 5]
        row.next_sample.sample = 1
        row.n_stores = 2
        row.stores.0 = ds_store(slot: 4, value: ds_combination())
        row.stores.0.value.sample = 10
        row.stores.1 = ds_store(slot: 1, value: ds_combination())
        row.stores.1.value.slots.0 = 2
        func step(second offset: Int) throws {
            var tensors = [[1, 2, 3], [1, 2, 3], slot]
            try withTensors(&tensors, shape: [3]) { t in
                try memory.withUnsafeMutableBufferPointer { memory in
                    var stores = [t[0].pointee, t[0].pointee]
                    stores[0].data = UnsafeMutableRawPointer(memory.baseAddress!)
                    stores[1].data = UnsafeMutableRawPointer(memory.baseAddress! + offset)
                    try call(rowStep(scheduler, &row, t[0], t[0], nil, t[2], 1, stores, t[1], nil, 0))
                }
            }
            slot = tensors[2]
        }
        try step(second: 3)
        #expect(memory == [10, 20, 30, 10, 10, 10] && slot == [5, 5, 5])
        #expect(throws: (any Error).self) { try step(second: 2) }
        #expect(memory == [10, 20, 30, 10, 10, 10])
    }

    /// The caller's levels replace a plan's unchanged.
    @Test func levelsOfTheCallers() throws {
        let scheduler = try makeScheduler(#"{"_class_name": "EulerDiscreteScheduler"}"#)
        defer { ds_scheduler_free(scheduler) }
        let levels = #"{"timesteps": [900, 400], "levels": [10.123456789, 2.5, 0]}"#
        #expect(throws: (any Error).self) { try call(ds_scheduler_set_timesteps(scheduler, 0, levels)) }
        try call(ds_scheduler_set_timesteps(scheduler, 4, nil))
        try call(ds_scheduler_set_timesteps(scheduler, 0, levels))
        var sigmas = [0.0, 0, 0], count = 0
        try call(ds_scheduler_sigmas(scheduler, &sigmas, 3, &count))
        #expect(sigmas == [10.123456789, 2.5, 0] && count == 3)
        for wrong in [#"{"timesteps": [900], "levels": [10, 2, 0]}"#, #"{"timesteps": [900], "levels": [10, -1]}"#] {
            #expect(throws: (any Error).self) { try call(ds_scheduler_set_timesteps(scheduler, 0, wrong)) }
        }
        let stateless = try makeScheduler(#"{"_class_name": "DDIMScheduler"}"#)
        defer { ds_scheduler_free(stateless) }
        try call(ds_scheduler_set_timesteps(stateless, 4, nil))
        #expect(ds_scheduler_set_timesteps(stateless, 0, levels) == DS_UNSUPPORTED_OPERATION)
    }

    /// More slots than any plan has: a caller's row reads six and stores two of them; the sums are written out here as in NumPy.
    @Test func aRowOfTheCallers() throws {
        let scheduler = try makeScheduler(#"{"_class_name": "DEISMultistepScheduler"}"#)
        defer { ds_scheduler_free(scheduler) }
        try call(ds_scheduler_set_timesteps(scheduler, 6, nil))
        var slots = (0..<6).map { [Double](repeating: Double($0 + 1), count: 3) }
        let x = [8.0, 16, 32], e = [0.5, 0.25, 0.125]
        var next = [0.0, 0, 0], report = next
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
        func step(_ stores: Int) throws {
            row.n_stores = stores
            var tensors = slots + [x, e, next, report]
            try withTensors(&tensors, shape: [3]) { t in
                let slots = t[..<6].map(\.pointee)
                try call(rowStep(scheduler, &row, t[7], t[6], nil, slots, 6, nil, t[8], t[9], 0))
            }
            (slots, next, report) = (Array(tensors[..<6]), tensors[8], tensors[9])
        }
        // All stores are computed from the slots before the step.
        try step(2)
        let sum = (0..<6).reduce(0.0) { $0 + Double(1 << $1) * Double($1 + 1) }
        #expect(next == zip(x, e).map { 2 * $0 + 4 * $1 + sum })
        #expect(report == x.map { $0 + 1 })
        #expect(slots[5] == [6, 6, 6] && slots[1] == e.map { $0 + 6 })
        #expect([0, 2, 3, 4].allSatisfy { slots[$0] == [Double](repeating: Double($0 + 1), count: 3) })
        // The step changes no slot if it gets no stores.
        try step(0)
        #expect(slots[5] == [6, 6, 6] && slots[1] == e.map { $0 + 6 })
    }

    /// Tensors without elements are neither read nor written, whatever their addresses.
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
            try call(rowStep(scheduler, &row, x, x, nil, slots, 6, nil, x, nil, 0))
        }
    }
}

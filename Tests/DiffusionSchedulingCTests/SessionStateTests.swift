// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// A restored session continues with the bits of the uninterrupted one.
@Suite struct SessionStateTests {
    static let configurations = [
        #"{"_class_name": "DEISMultistepScheduler", "solver_order": 1}"#,
        #"{"_class_name": "DEISMultistepScheduler", "solver_order": 3}"#,
        #"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "thresholding": true}"#,
        #"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": true}"#,
        #"{"_class_name": "DPMSolverMultistepInverseScheduler", "solver_order": 2}"#,
        #"{"_class_name": "DDIMScheduler"}"#,
        #"{"_class_name": "DDIMInverseScheduler"}"#,
    ]

    static func plan(_ json: String, steps: Int = 6) throws -> SamplingPlan {
        try SchedulerCatalog.makeScheduler(json: json).plan(.count(steps))
    }

    /// A made-up model output or noise tensor; equal arguments give equal tensors.
    static func tensor<Element: TensorElement & BinaryFloatingPoint>(_ index: Int, count: Int) -> [Element] {
        (0..<count).map { Element(((index * 31 + $0 * 17) % 23) - 11) / 8 }
    }

    static func step<Element: TensorElement & BinaryFloatingPoint>(
        _ session: inout SamplingSession, _ sample: inout [Element]
    ) throws {
        let index = session.stepIndex
        try session.step(
            modelOutput: tensor(index, count: sample.count), sample: &sample, noise: tensor(100 + index, count: sample.count),
            batchSize: 2)
    }

    @Test(arguments: configurations) func goesOnWithTheSameBits(_ json: String) throws {
        try Self.goesOn(json, Float.self)
        try Self.goesOn(json, Double.self)
    }

    static func goesOn<Element: TensorElement & BinaryFloatingPoint>(_ json: String, _: Element.Type) throws {
        let plan = try plan(json)
        for beginIndex in [0, 2] {
            for savedAfter in 0...(plan.stepCount - beginIndex) {
                var session = SamplingSession(plan: plan, beginIndex: beginIndex)
                var sample: [Element] = tensor(7, count: 10)
                for _ in 0..<savedAfter { try step(&session, &sample) }
                // The plan is made again, as after a restart of the process.
                var restored = try SamplingSession(plan: Self.plan(json), restoring: session.savedState())
                #expect(restored.savedState() == session.savedState())
                #expect(restored.stepIndex == session.stepIndex)
                #expect(restored.age == session.age)
                var other = sample
                while session.timestep != nil {
                    try step(&session, &sample)
                    try step(&restored, &other)
                    #expect(other == sample)
                }
                #expect(restored.timestep == nil)
                restored.reset()
                #expect(restored.stepIndex == beginIndex)
            }
        }
    }

    @Test func keepsTypeAndNumberOfElements() throws {
        let plan = try Self.plan(Self.configurations[1])
        var session = SamplingSession(plan: plan)
        var sample: [Float] = Self.tensor(7, count: 10)
        try Self.step(&session, &sample)
        var restored = try SamplingSession(plan: plan, restoring: session.savedState())
        #expect(throws: SchedulerError.self) { try restored.step(modelOutput: [1.0, 2.0], sample: [1.0, 2.0] as [Double]) }
        #expect(throws: SchedulerError.self) { try restored.step(modelOutput: [1, 2], sample: [1, 2] as [Float]) }
        try Self.step(&restored, &sample)
    }

    @Test func emptySamples() throws {
        let plan = try Self.plan(Self.configurations[1])
        var session = SamplingSession(plan: plan), sample: [Float] = []
        try session.step(modelOutput: [], sample: &sample)
        var restored = try SamplingSession(plan: plan, restoring: session.savedState())
        try restored.step(modelOutput: [], sample: &sample)
        #expect(restored.stepIndex == 2)
    }

    /// The format is fixed: later versions read what an earlier one wrote.
    @Test func form() throws {
        let plan = try Self.plan(Self.configurations[1])
        var session = SamplingSession(plan: plan, beginIndex: 1)
        var sample: [Float] = [1, 2]
        try session.step(modelOutput: [0.5, -2], sample: &sample)
        let bytes = session.savedState()
        #expect(bytes.count == 72 + 8)
        #expect(bytes[0..<12] == [0x44, 0x53, 0x53, 0x45, 0x53, 0x53, 0x0D, 0x0A, 1, 0, 0, 0])
        #expect(bytes[12..<24] == [0, 0, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0])
        #expect(bytes[32..<64] == [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])
        // DEIS stores the predicted noise, here the model's output.
        #expect(bytes[64..<72] == [0, 0, 0, 0x3F, 0, 0, 0, 0xC0])
    }

    /// Any wrong bit is detected, and bytes that end too early or too late.
    @Test func damage() throws {
        let plan = try Self.plan(Self.configurations[1])
        var session = SamplingSession(plan: plan), sample: [Float] = Self.tensor(7, count: 4)
        for _ in 0..<2 { try Self.step(&session, &sample) }
        let bytes = session.savedState()
        func isDamaged(_ bytes: [UInt8]) -> Bool {
            do throws(SchedulerError) {
                _ = try SamplingSession(plan: plan, restoring: bytes)
                return false
            } catch {
                if case .damagedState = error { return true } else { return false }
            }
        }
        #expect(!isDamaged(bytes))
        for index in bytes.indices {
            for bit in 0..<8 {
                var damaged = bytes
                damaged[index] ^= 1 << bit
                #expect(isDamaged(damaged), "bit \(bit) of byte \(index)")
            }
        }
        for count in bytes.indices { #expect(isDamaged(Array(bytes[..<count]))) }
        #expect(isDamaged(bytes + [0]))
        #expect(isDamaged([UInt8](repeating: 0, count: 72)))
    }

    /// States whose checksum is right and whose contents are impossible.
    @Test(arguments: [
        (12, 4, UInt64(9)), (12, 4, UInt64(UInt32.max)), (32, 8, 3), (32, 8, .max), (40, 8, 1), (40, 8, 7), (40, 8, 1 << 63),
        (48, 8, 1 << 62), (48, 8, 5), (56, 8, 1), (56, 8, 7), (56, 8, 1 << 61), (8, 4, 2),
    ]) func contradictions(_ offset: Int, _ size: Int, _ value: UInt64) throws {
        let plan = try Self.plan(Self.configurations[1])
        var session = SamplingSession(plan: plan), sample: [Float] = Self.tensor(7, count: 4)
        for _ in 0..<2 { try Self.step(&session, &sample) }
        var bytes = session.savedState()
        for index in 0..<size { bytes[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * UInt64(index))) }
        let checksum = bytes.dropLast(8).withUnsafeBytes { Checksum.of($0) }
        for index in 0..<8 { bytes[bytes.count - 8 + index] = UInt8(truncatingIfNeeded: checksum >> (8 * UInt64(index))) }
        let error = #expect(throws: SchedulerError.self) { try SamplingSession(plan: plan, restoring: bytes) }
        guard case .damagedState = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }

    @Test func otherPlansAreRefused() throws {
        let plan = try Self.plan(Self.configurations[1])
        let bytes = SamplingSession(plan: plan).savedState()
        for (json, steps) in [
            (Self.configurations[1], 7), (Self.configurations[0], 6), (Self.configurations[5], 6),
            (#"{"_class_name": "DEISMultistepScheduler", "solver_order": 3, "beta_end": 0.020000000001}"#, 6),
            (#"{"_class_name": "DEISMultistepScheduler", "solver_order": 3, "thresholding": true}"#, 6),
        ] {
            let other = try Self.plan(json, steps: steps)
            // A beta_end that rounds to the same float32 number makes the same plan.
            if other == plan {
                _ = try SamplingSession(plan: other, restoring: bytes)
                continue
            }
            let error = #expect(throws: SchedulerError.self) { try SamplingSession(plan: other, restoring: bytes) }
            guard case .foreignState = error else {
                Issue.record("\(String(describing: error))")
                return
            }
        }
    }

    /// A copy shares the history until it steps; its steps don't change the original.
    @Test func copiesGoTheirOwnWay() throws {
        let plan = try Self.plan(Self.configurations[1])
        var session = SamplingSession(plan: plan), sample: [Float] = Self.tensor(7, count: 4)
        for _ in 0..<2 { try Self.step(&session, &sample) }
        let before = session.savedState()
        var copy = session, other = sample.map { -$0 }
        try Self.step(&copy, &other)
        #expect(session.savedState() == before)
        #expect(copy.savedState() != before)
    }

    /// Values published by the specification's own test program and by others.
    @Test(
        arguments: [
            ("", 0xEF46_DB37_51D8_E999), ("a", 0xD24E_C4F1_A98C_6E5B), ("abc", 0x44BC_2CF5_AD77_0999),
            ("Nobody inspects the spammish repetition", 0xFBCE_A83C_8A37_8BF1),
        ] as [(String, UInt64)]) func xxh64(_ text: String, _ checksum: UInt64)
    {
        #expect(Array(text.utf8).withUnsafeBytes { Checksum.of($0) } == checksum)
    }
}

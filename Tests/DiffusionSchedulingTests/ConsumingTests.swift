// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// Steps that may keep the model output's memory against steps that copy.
@Suite struct ConsumingTests {
    static func plans() throws -> [(name: String, plan: SamplingPlan)] {
        var plans: [(String, SamplingPlan)] = []
        for order in 1...3 {
            plans.append(("DEIS \(order)", try makeDEIS { $0.solverOrder = order }.plan(.count(9))))
            plans.append(
                (
                    "DPM-Solver \(order)",
                    try makeDPMSolver { ($0.solverOrder, $0.algorithmType) = (order, .dpmsolver) }.plan(.count(9))
                ))
            plans.append(("DPM-Solver++ \(order)", try makeDPMSolver { $0.solverOrder = order }.plan(.count(9))))
        }
        plans.append(("thresholds", try makeDEIS { $0.thresholding = true }.plan(.count(9))))
        plans.append(("DDIM", try makeDDIM { $0.clipSample = true }.plan(.count(9))))
        return plans
    }

    private func step<Element: TensorElement, Output: TensorElement>(
        _ session: inout SamplingSession, _ modelOutput: [Output], _ sample: inout [Element]
    ) throws {
        var span = sample.mutableSpan
        try session.step(modelOutput: modelOutput.span, sample: &span, batchSize: 4)
    }

    private func run<Element: TensorElement & BinaryFloatingPoint, Output: TensorElement & BinaryFloatingPoint>(
        _ plan: SamplingPlan, _: Element.Type, _: Output.Type, _ name: String
    ) throws {
        var random = SeededGenerator("consuming \(name)")
        var session = SamplingSession(plan: plan), plain = session
        var x = (0..<100).map { _ in Element(Float.random(in: -2...2, using: &random)) }, y = x
        var output = try TensorBuffer<Output>(count: x.count)
        while session.timestep != nil {
            let e = x.map { _ in Output(Float.random(in: -1...1, using: &random)) }
            output.withMutableSpan { span in for index in 0..<e.count { span[index] = e[index] } }
            if session.stepIndex == 4 {
                // A copy shares the stored outputs until it steps; restored bytes hold them as well.
                var copy = session, restored = try SamplingSession(plan: plan, restoring: session.savedState())
                var (copied, other) = (x, x)
                try step(&copy, e, &copied)
                try step(&restored, e, &other)
                #expect(bits(copied) == bits(other))
            }
            try step(&plain, e, &y)
            var span = x.mutableSpan
            try session.step(consuming: &output, sample: &span, batchSize: 4)
            #expect(bits(x) == bits(y), "\(name), step \(plain.stepIndex - 1)")
        }
        #expect(output.count == 100)
    }

    @Test func runsAreTheSame() throws {
        for (name, plan) in try Self.plans() {
            try run(plan, Float.self, Float.self, "\(name), float32")
            try run(plan, Double.self, Double.self, "\(name), float64")
            try run(plan, Float.self, Float16.self, "\(name), float16 outputs")
        }
    }

    /// A step that stores the model output itself keeps its memory, and gives other memory back.
    @Test func memoryChangesHands() throws {
        func addresses(_ plan: SamplingPlan) throws -> (before: UnsafeMutableRawPointer, after: UnsafeMutableRawPointer) {
            var session = SamplingSession(plan: plan)
            var output = try TensorBuffer<Float>(count: 16), x = [Float](repeating: 1, count: 16)
            let before = output.address
            var span = x.mutableSpan
            try session.step(consuming: &output, sample: &span)
            return (before, output.address)
        }
        let kept = try addresses(makeDEIS { $0.solverOrder = 3 }.plan(.count(5)))
        #expect(kept.before != kept.after)
        let copied = try addresses(makeDPMSolver { $0.solverOrder = 3 }.plan(.count(5)))
        #expect(copied.before == copied.after)
    }

    @Test func errorsLeaveTheBuffer() throws {
        var session = SamplingSession(plan: try makeDEIS { $0.solverOrder = 2 }.plan(.count(2)))
        var output = try TensorBuffer<Float>(count: 3), x: [Float] = [1, 2, 3, 4]
        output.withMutableSpan { $0[1] = 5 }
        let address = output.address
        let actual = fault {
            var span = x.mutableSpan
            try session.step(consuming: &output, sample: &span)
        }
        #expect(actual == .wrongElementCount(argument: "modelOutput", count: 3, expected: "4, like the sample"))
        #expect(output.address == address && output.withSpan { $0[1] } == 5 && x == [1, 2, 3, 4] && session.stepIndex == 0)
        #expect(fault { _ = try TensorBuffer<Float>(count: -1) } == .invalidValue(key: "count", value: "-1", allowed: "at least 0"))
        #expect(fault { _ = try TensorBuffer<Float>(count: .max) } == .outOfMemory(byteCount: .max))
    }

    @Test func emptyTensors() throws {
        var session = SamplingSession(plan: try makeDEIS { $0.solverOrder = 2 }.plan(.count(2)))
        var output = try TensorBuffer<Float>(count: 0), x: [Float] = []
        var span = x.mutableSpan
        try session.step(consuming: &output, sample: &span)
        #expect(session.stepIndex == 1)
    }
}

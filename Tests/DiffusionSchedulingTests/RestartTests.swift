// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// A run depends on its plan and its tensors alone: not on earlier runs, concurrent runs, or the run it was copied from.
@Suite struct RestartTests {
    static func plan(
        order: Int = 3, _ grid: GridChoice = .linspace, count: Int = 9, thresholding: Bool = false
    ) throws -> SamplingPlan {
        try makeDEIS {
            $0.solverOrder = order
            $0.thresholding = thresholding
            $0.sampleMaxValue = 2
            $0.dynamicThresholdingRatio = 0.9
            grid.apply(to: &$0)
        }.plan(.count(count))
    }

    /// The samples after each step.
    static func trace(_ session: inout SamplingSession) throws -> [[UInt8]] {
        var sample = goldenStart, trace: [[UInt8]] = []
        while session.timestep != nil {
            try session.run(&sample, steps: 1)
            trace.append(bits(sample))
        }
        return trace
    }

    @Test(arguments: [1, 2, 3], [false, true])
    func afterResetASessionReproducesItsOpening(order: Int, thresholding: Bool) throws {
        var session = SamplingSession(plan: try Self.plan(order: order, thresholding: thresholding))
        let first = try Self.trace(&session)
        #expect(session.timestep == nil && session.hasBegun)
        #expect(Set(first).count == first.count, "every step does something")
        session.reset()
        #expect(session.stepIndex == 0 && !session.hasBegun && session.age == 0)
        #expect(try Self.trace(&session) == first)
        for length in 1...4 {
            session.reset()
            var sample = goldenStart.map { -2 * $0 }
            try session.run(&sample, steps: length)
            session.reset()
            #expect(try Self.trace(&session) == first, "reset after \(length) steps of another run")
        }
    }

    /// A run that begins late, with another run's sample at that evaluation, takes the other's steps if the plan stores nothing
    /// across steps.
    @Test func aRunThatBeginsLateIsTheTailOfOne() throws {
        var count = 0
        for plan in try SessionRowsTests.plans() where plan.warmUp == 0 {
            var session = SamplingSession(plan: plan), sample = goldenStart, samples: [[Float]] = []
            func step(_ session: inout SamplingSession, _ sample: inout [Float]) throws {
                let timestep = session.timestep!, noise = GoldenProblem.noise(step: session.stepIndex).map { Float($0) }
                try session.step(modelOutput: goldenOutput(sample, timestep: timestep), sample: &sample, noise: noise)
            }
            while session.timestep != nil {
                samples.append(sample)
                try step(&session, &sample)
            }
            for start in plan.starts {
                var late = SamplingSession(plan: plan, beginIndex: start), tail = samples[start]
                while late.timestep != nil { try step(&late, &tail) }
                #expect(bits(tail) == bits(sample), "from \(start) of \(plan.stepCount)")
                count += 1
            }
        }
        #expect(count > 20)
    }

    @Test func afterResetASessionTakesElementsOfAnotherTypeAndNumber() throws {
        var session = SamplingSession(plan: try Self.plan())
        var sample = goldenStart
        try session.run(&sample, steps: 3)
        session.reset()
        var other: [Double] = [0.5, -1, 2]
        try session.step(modelOutput: [0, 1, 2], sample: &other)
        var fresh: [Double] = [0.5, -1, 2], new = SamplingSession(plan: session.plan)
        try new.step(modelOutput: [0, 1, 2], sample: &fresh)
        #expect(bits(other) == bits(fresh))
    }

    @Test(arguments: [1, 2, 3], 1...5) func aCopyGoesItsOwnWay(order: Int, after steps: Int) throws {
        let plan = try Self.plan(order: order)
        let expected = bits(try SamplingSession.finalSample(of: plan))
        var original = SamplingSession(plan: plan)
        var sample = goldenStart
        try original.run(&sample, steps: steps)

        var copy = original, aside = original
        var copiedSample = sample, asideSample = sample.map { $0 + 1 }
        // One copy takes a wild step first, which the others must not see in their shared history.
        try aside.step(modelOutput: [Float](repeating: 1e6, count: 24), sample: &asideSample)
        try copy.run(&copiedSample, steps: 2)
        try original.run(&sample)
        try copy.run(&copiedSample)
        #expect(bits(sample) == expected, "the original")
        #expect(bits(copiedSample) == expected, "the copy")
        #expect(aside.stepIndex == steps + 1)
    }

    @Test func aCopyOutlivesItsOriginal() throws {
        let plan = try Self.plan()
        var sample = goldenStart
        var copy: SamplingSession
        do {
            var original = SamplingSession(plan: plan)
            try original.run(&sample, steps: 4)
            copy = original
        }
        try copy.run(&sample)
        #expect(bits(sample) == bits(try SamplingSession.finalSample(of: plan)))
    }

    @Test func interleavedSchedulersEqualLoneOnes() throws {
        func scheduler(_ order: Int) throws -> DEISMultistepScheduler {
            var scheduler = try makeDEIS { $0.solverOrder = order }
            try scheduler.setTimesteps(8)
            return scheduler
        }
        func step(_ scheduler: inout DEISMultistepScheduler, _ sample: inout [Float], _ timestep: Double) throws {
            try scheduler.step(modelOutput: goldenOutput(sample, timestep: timestep), timestep: timestep, sample: &sample)
        }
        var loneSamples: [[UInt8]] = []
        for order in [2, 3] {
            var lone = try scheduler(order), sample = goldenStart
            for timestep in lone.timesteps { try step(&lone, &sample, timestep) }
            loneSamples.append(bits(sample))
        }
        var two = try scheduler(2), three = try scheduler(3), x = goldenStart, y = goldenStart
        for timestep in two.timesteps {
            try step(&two, &x, timestep)
            try step(&three, &y, timestep)
        }
        #expect([bits(x), bits(y)] == loneSamples)
        #expect(loneSamples[0] != loneSamples[1])
    }

    @Test func aSchedulerUsedAgainEqualsANewOne() throws {
        var used = try makeDEIS { $0.solverOrder = 3 }
        for count in [6, 20, 6, 3] {
            try used.setTimesteps(count)
            var new = try makeDEIS { $0.solverOrder = 3 }
            try new.setTimesteps(count)
            var x = goldenStart, y = goldenStart
            for timestep in used.timesteps {
                let output = goldenOutput(x, timestep: timestep)
                try used.step(modelOutput: output, timestep: timestep, sample: &x)
                try new.step(modelOutput: output, timestep: timestep, sample: &y)
            }
            #expect(bits(x) == bits(y), "\(count) steps")
        }
    }

    @Test func aSchedulerCanBeSetUpAnewInTheMidstOfARun() throws {
        var scheduler = try makeDEIS()
        try scheduler.setTimesteps(10)
        var sample = goldenStart
        try scheduler.session?.run(&sample, steps: 4)
        try scheduler.setTimesteps(10)
        #expect(scheduler.stepIndex == 0)
        sample = goldenStart
        try scheduler.session?.run(&sample)
        #expect(bits(sample) == bits(try SamplingSession.finalSample(of: scheduler.plan(.count(10)))))
    }

    @Test(arguments: GridChoice.allCases) func aRunFromALaterStepEqualsARunOnThePlanThatStartsThere(_ choice: GridChoice) throws {
        let scheduler = try makeDEIS {
            $0.solverOrder = 3
            choice.apply(to: &$0)
        }
        let whole = try scheduler.plan(.count(20))
        for begin in [0, 1, 2, 7, 17, 18, 19, 20] {
            let rest = TimestepGrid(
                timesteps: Array(whole.timesteps[begin...]), sigmas: Array(whole.sigmas[begin...]), process: whole.grid.process)
            // The order of the last steps depends on the length of the whole plan.
            let plan = try makeDEIS {
                $0.solverOrder = 3
                $0.lowerOrderFinal = false
            }.plan(on: rest)
            let late = try SamplingSession.finalSample(of: whole, beginIndex: begin)
            #expect(bits(late) == bits(try SamplingSession.finalSample(of: plan)), "from step \(begin)")
        }
    }

    @Test func aRunFromALaterStepWarmsUp() throws {
        let plan = try Self.plan(count: 20)
        var session = SamplingSession(plan: plan, beginIndex: 6), sample = goldenStart
        for remembered in [0, 1, 2, 2] {
            #expect(min(session.age, plan.warmUp) == remembered)
            #expect(plan.history(at: session.stepIndex, age: remembered).count == remembered, "order \(remembered + 1)")
            try session.run(&sample, steps: 1)
        }
    }

    @Test func aSchedulerStartsWhereItsFirstTimestepIs() throws {
        let plan = try makeDEIS().plan(.count(10))
        for begin in [0, 3, 9] {
            var byTimestep = try makeDEIS(), byIndex = try makeDEIS()
            try byTimestep.setTimesteps(10)
            try byIndex.setTimesteps(10)
            try byIndex.setBeginIndex(begin)
            #expect(byIndex.stepIndex == begin)
            var x = goldenStart, y = goldenStart
            for timestep in plan.timesteps[begin...] {
                try byTimestep.step(modelOutput: goldenOutput(x, timestep: timestep), timestep: timestep, sample: &x)
                try byIndex.step(modelOutput: goldenOutput(y, timestep: timestep), timestep: timestep, sample: &y)
            }
            let expected = bits(try SamplingSession.finalSample(of: plan, beginIndex: begin))
            #expect(bits(x) == expected && bits(y) == expected, "from step \(begin)")
        }
    }

    @Test func setTimestepsForgetsTheBeginIndex() throws {
        var scheduler = try makeDEIS()
        try scheduler.setTimesteps(10)
        try scheduler.setBeginIndex(4)
        try scheduler.setTimesteps(10)
        #expect(scheduler.stepIndex == 0)
    }

    @Test func resetOfALateSessionGoesBackToItsBegin() throws {
        var session = SamplingSession(plan: try Self.plan(), beginIndex: 3), sample = goldenStart
        try session.run(&sample, steps: 2)
        session.reset()
        #expect(session.stepIndex == 3)
    }

    /// The caller sets the limit, and still has it after choosing a later start.
    @Test func theThreadLimitOutlastsTheChoiceOfTheStart() throws {
        var scheduler = try makeDEIS()
        try scheduler.setTimesteps(10)
        scheduler.session?.maximumThreads = 1
        var sample = goldenStart
        let timestep = scheduler.timesteps[4]
        try scheduler.step(modelOutput: sample, timestep: timestep, sample: &sample)
        #expect(scheduler.session?.maximumThreads == 1)
    }

    @Test func sessionsOfOnePlanRunAtOnce() async throws {
        let plan = try Self.plan(count: 40)
        let thresholded = try Self.plan(count: 40, thresholding: true)
        let expected = bits(try SamplingSession.finalSample(of: plan))
        let expectedThresholded = bits(try SamplingSession.finalSample(of: thresholded))
        // Some tasks continue copies of one session from its midst, which share their history at first.
        var opening = SamplingSession(plan: plan), openingSample = goldenStart
        try opening.run(&openingSample, steps: 11)
        let shared = opening, sharedSample = openingSample
        @Sendable func isAsExpected(_ run: Int) throws -> Bool {
            switch run % 3 {
            case 0: return bits(try SamplingSession.finalSample(of: plan)) == expected
            case 1: return bits(try SamplingSession.finalSample(of: thresholded)) == expectedThresholded
            default:
                var session = shared, sample = sharedSample
                try session.run(&sample)
                return bits(sample) == expected
            }
        }

        try await withThrowingTaskGroup(of: [Bool].self) { group in
            for task in 0..<8 {
                group.addTask { try (0..<6).map { round in try isAsExpected(task + round) } }
            }
            for try await results in group { #expect(results == Array(repeating: true, count: 6)) }
        }
    }

    @Test func oneSchedulerPlansForManyTasks() async throws {
        let scheduler = try makeDEIS { $0.useBetaSigmas = true }
        let expected = try (1...8).map { try scheduler.plan(.count($0)) }
        let plans = try await withThrowingTaskGroup(of: SamplingPlan.self) { group in
            for count in 1...8 { group.addTask { try scheduler.plan(.count(count)) } }
            return try await group.reduce(into: [SamplingPlan]()) { $0.append($1) }
        }
        #expect(plans.sorted { $0.stepCount < $1.stepCount } == expected)
    }
}

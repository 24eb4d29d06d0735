// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// The error of a whole float32 run against the exact recurrence: the README's table, ours beside diffusers'.
@Suite struct AccuracyTests {
    @Test func float32RunsAreNearerThanDiffusersAtEveryOrderAndLength() throws {
        print("DEIS, diffusers' default configuration, float32; root of the mean squared error against 50-digit arithmetic")
        print("order  steps  diffusers     ours")
        for (index, record) in try GoldenFile.load("deis_accuracy").records.enumerated() {
            var scheduler = try DEISMultistepScheduler(.init(json: record.configText))
            try scheduler.setTimesteps(record.n)
            var x = GoldenProblem.initialSample.map { Float($0) }
            for timestep in scheduler.timesteps {
                let e = x.map { Float(GoldenProblem.model(Double($0), timestep: timestep, trainingCount: scheduler.count)) }
                try scheduler.step(modelOutput: e, timestep: timestep, sample: &x)
            }
            let ours = x.map(Double.init).rootMeanSquareError(from: record.finalExact)
            let theirs = record.finalFloat32.rootMeanSquareError(from: record.finalExact)
            let order = scheduler.solverOrder
            print(String(format: "%5d  %5d  %9.1e  %7.1e", order, record.n, theirs, ours))
            #expect(ours < theirs, "record \(index), order \(order), \(record.n) steps")
        }
    }
}

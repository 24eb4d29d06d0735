// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Foundation

/// Decodes a plan as JSON; one that is taken must survive encoding, be what it says, and run.
///
/// - Returns: 1 if the plan was taken, else 0.
@_cdecl("fuzz_plan")
public func fuzzPlan(_ data: UnsafePointer<UInt8>?, _ size: Int) -> Int32 {
    let decoder = JSONDecoder(), encoder = JSONEncoder()
    guard let plan = try? decoder.decode(SamplingPlan.self, from: Data(UnsafeRawBufferPointer(start: data, count: size))) else {
        return 0
    }
    guard let text = try? encoder.encode(plan), let again = try? decoder.decode(SamplingPlan.self, from: text), again == plan else {
        fatalError("a plan doesn't survive encoding")
    }
    precondition(plan.sigmas.count == plan.stepCount + 1 && plan.levels.count == plan.stepCount + 1)
    precondition(plan.sigmas.allSatisfy { $0.isFinite } && plan.timesteps.allSatisfy { $0.isFinite })

    var session = SamplingSession(plan: plan)
    session.maximumThreads = 1
    var sample: [Float] = [0.5, -1, 0, 2, .infinity, .nan]
    let noise: [Float] = [1, -1, 0.5, 0, 2, -2]
    let doubled = plan.modelLearnsVariance && plan.stepCount % 2 == 1
    for _ in 0..<min(plan.stepCount, 4) {
        do {
            let output = doubled ? sample + sample : sample
            try session.step(modelOutput: output, sample: &sample, noise: noise, batchSize: 2)
            let saved = session.savedState()
            guard try SamplingSession(plan: again, restoring: saved).savedState() == saved else {
                fatalError("a session doesn't survive saving")
            }
        } catch {
            fatalError("a valid plan doesn't run: \(error)")
        }
    }
    return 1
}

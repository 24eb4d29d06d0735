// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// Replays the inputs of the plan's fuzzer: its seeds and its former finds. (Tests/check-c-abi.sh replays the C interface's.)
@Suite struct FuzzInputTests {
    static let inputs: [URL] = {
        let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../fuzz").standardized
        return ["seeds/plan", "findings/plan"].flatMap { place in
            (try? FileManager.default.contentsOfDirectory(at: folder.appending(path: place), includingPropertiesForKeys: nil)) ?? []
        }.sorted { $0.path < $1.path }
    }()

    @Test func thereAreSome() { #expect(Self.inputs.count >= 6) }

    @Test(arguments: inputs) func aPlanThatIsTakenSurvivesAndRuns(_ file: URL) throws {
        guard let plan = try? JSONDecoder().decode(SamplingPlan.self, from: Data(contentsOf: file)) else { return }
        let again = try JSONDecoder().decode(SamplingPlan.self, from: JSONEncoder().encode(plan))
        #expect(again == plan && again.fingerprint == plan.fingerprint)
        var session = SamplingSession(plan: plan), sample: [Float] = [0.5, -1, 0, 2]
        for _ in 0..<plan.stepCount {
            let needsVariance = plan.row(at: session.stepIndex, age: session.stepIndex).needsVariance
            let output = needsVariance ? sample + sample : sample
            try session.step(modelOutput: output, sample: &sample, noise: [1, -1, 0, 2], batchSize: 2)
        }
        #expect(session.timestep == nil)
    }
}

// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling

/// The rows of one batch, each free or with a request in progress, and a step of all of them.
struct RowPool {
    private let model: Model
    private let plans: [SamplingPlan]
    private(set) var runs: [Run?]
    /// The number of times that a request was saved to bytes and restored.
    private(set) var pauses = 0
    private var paused: [(run: Run, state: [UInt8])] = []

    init(rowCount: Int, model: Model, plans: [SamplingPlan]) {
        (self.model, self.plans) = (model, plans)
        runs = Array(repeating: nil, count: rowCount)
    }

    var freeRows: [Int] { runs.indices.filter { runs[$0] == nil } }
    var isEmpty: Bool { runs.allSatisfy { $0 == nil } && paused.isEmpty }

    /// Gives a row to a request. Paused requests come first.
    mutating func admit(_ request: Request, to row: Int) {
        runs[row] = Run(request, plan: plans[request.planIndex], pixelCount: model.pixelCount)
    }

    /// Gives rows to paused requests.
    mutating func resume() throws {
        for row in freeRows {
            guard !paused.isEmpty else { return }
            var (run, state) = paused.removeFirst()
            // The bytes are all that remains of the session; they might have come from another machine.
            run.session = try SamplingSession(plan: plans[run.request.planIndex], restoring: state)
            runs[row] = run
            pauses += 1
        }
    }

    /// Calls the model for all rows, steps them in one call, and returns the finished requests.
    ///
    /// - Parameter mayPause: whether requests may pause at their chosen step.
    mutating func step(mayPause: Bool) throws -> [Run] {
        let count = runs.count, pixels = model.pixelCount
        var batch = [Float](repeating: 0, count: count * pixels)
        var conditional = batch, unconditional = batch, noise = batch
        var guidance = [Guidance?](repeating: nil, count: count)
        var sessions = [SamplingSession?](repeating: nil, count: count)
        for row in runs.indices {
            guard var run = runs[row] else { continue }
            let range = row * pixels..<(row + 1) * pixels
            let level = run.session.plan.levels[run.session.stepIndex]
            let output = model.predict(run.sample, at: level, digit: run.request.guided?.digit)
            batch.replaceSubrange(range, with: run.sample)
            conditional.replaceSubrange(range, with: output.conditional ?? output.unconditional)
            unconditional.replaceSubrange(range, with: output.unconditional)
            if let drawn = run.nextNoise() { noise.replaceSubrange(range, with: drawn) }
            guidance[row] = run.request.guided?.guidance
            sessions[row] = run.session
            runs[row] = run
        }

        try SamplingSession.step(
            rows: &sessions, modelOutput: conditional, unconditional: unconditional, guidance: guidance, sample: &batch,
            noise: noise)

        var finished: [Run] = []
        for row in runs.indices {
            guard var run = runs[row], let session = sessions[row] else { continue }
            run.session = session
            run.sample = Array(batch[row * pixels..<(row + 1) * pixels])
            runs[row] = run
            if session.timestep == nil {
                finished.append(run)
                runs[row] = nil
            } else if mayPause, run.request.pausesBefore == session.stepIndex {
                paused.append((run, session.savedState()))
                runs[row] = nil
            }
        }
        return finished
    }
}

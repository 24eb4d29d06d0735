// SPDX-License-Identifier: Apache-2.0

/// A piece of work that is timed alternately with others.
protocol Contestant: AnyObject {
    /// The most steps of one timed batch.
    var mostSteps: Int { get }
    /// Prepares a batch of `steps` steps; the preparation isn't timed.
    func prepare(steps: Int) throws
    func run(steps: Int) throws
}

extension Contestant {
    var mostSteps: Int { 40 }
    func prepare(steps: Int) throws {}
}

/// The use of memory by a step.
enum StepForm: String, Codable, CaseIterable {
    /// The next sample replaces the sample: `SamplingSession.step` on spans.
    case inPlace = "in place"
    /// The next sample goes to separate memory: `dsk_step`, which the C and Python layers call.
    case outOfPlace = "out of place"
    /// Steps in place that keep the model output's memory instead of copying it: `SamplingSession.step(consuming:)`.
    case consuming
}

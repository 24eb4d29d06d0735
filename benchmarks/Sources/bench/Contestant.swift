// SPDX-License-Identifier: Apache-2.0

/// Something that is timed in turn with others.
protocol Contestant: AnyObject {
    /// The most steps of one timed batch.
    var mostSteps: Int { get }
    /// What a batch of so many steps needs and isn't timed.
    func prepare(steps: Int) throws
    func run(steps: Int) throws
}

extension Contestant {
    var mostSteps: Int { 40 }
    func prepare(steps: Int) throws {}
}

/// How a step uses memory.
enum StepForm: String, Codable, CaseIterable {
    /// The next sample takes the sample's place: `SamplingSession.step` on spans.
    case inPlace = "in place"
    /// The next sample goes to memory of its own: `dsk_step`, which is what the C and Python layers call.
    case outOfPlace = "out of place"
    /// In place, and the model output's memory is kept rather than copied: `SamplingSession.step(consuming:)`.
    case consuming
}

// SPDX-License-Identifier: Apache-2.0

/// The timesteps of a run and the noise levels of its steps.
///
/// Step i goes from the level `sigmas[i]` to `sigmas[i + 1]`, so there is one level more than there are timesteps.
public struct TimestepGrid: Sendable, Equatable {
    /// The timestep that the model gets at each step.
    public let timesteps: [Double]
    /// ς: the ratio of noise to signal, or for flow matching the share of noise; float32 values, widened.
    public let sigmas: [Double]
    /// The mixture of data and noise in a sample at these levels.
    public let process: NoiseProcess
    /// The timestep that the last step leads to, if diffusers' list of timesteps ends with it; the model isn't evaluated there.
    public let end: Double?

    /// Rounds the noise levels to float32, as diffusers does.
    public init(timesteps: [Double], sigmas: [Double], process: NoiseProcess, end: Double? = nil) {
        self.init(timesteps: timesteps, exactSigmas: sigmas.map(\.roundedToFloat32), process: process, end: end)
    }

    /// Takes the noise levels unchanged.
    public init(timesteps: [Double], exactSigmas: [Double], process: NoiseProcess, end: Double? = nil) {
        self.timesteps = timesteps
        sigmas = exactSigmas
        self.process = process
        self.end = end
    }

    /// The grid of a run to ς = 0 with two evaluations a step and one in the last step: all inner levels occur twice.
    ///
    /// - Parameters:
    ///   - first: the timesteps of the steps' first evaluations.
    ///   - second: the timesteps of the second evaluations, of all steps but the last.
    ///   - sigmas: the level that each step begins at.
    init(firstEvaluations first: [Double], secondEvaluations second: some Sequence<Double>, sigmas: [Double], process: NoiseProcess)
    {
        self.init(
            timesteps: first.prefix(1) + zip(second, first.dropFirst()).flatMap { [$0, $1] },
            sigmas: sigmas.prefix(1) + sigmas.dropFirst().flatMap { [$0, $0] } + [0], process: process)
    }

    /// - Parameter descends: whether levels that ascend are refused, too.
    func validate(descends: Bool = false) throws(SchedulerError) {
        try require("number of timesteps", timesteps.count, "at most \(Limits.steps)", timesteps.count <= Limits.steps)
        try require(
            "number of sigmas", sigmas.count, "\(timesteps.count + 1), one more than the timesteps",
            sigmas.count == timesteps.count + 1)
        for (index, sigma) in sigmas.enumerated() {
            try require(
                "sigmas[\(index)]", sigma, process == .flow ? "from 0 to 1" : "finite and at least 0",
                sigma >= 0 && (process == .flow ? sigma <= 1 : sigma < .infinity))
        }
        for index in timesteps.indices where descends {
            let level = sigmas[index], next = sigmas[index + 1]
            try require("sigmas[\(index + 1)]", next, "at most \(level), the one before", next <= level)
        }
        for (index, timestep) in timesteps.enumerated() {
            try require("timesteps[\(index)]", timestep, "finite", timestep.isFinite)
        }
        if let end { try require("the timestep after the last step", end, "finite", end.isFinite) }
    }

    /// The noise levels with their rates.
    public var levels: [NoiseLevel] { sigmas.map { NoiseLevel(sigma: $0, process: process) } }
}

/// A requested run: a number of steps, or its timesteps or noise levels themselves.
public enum TimestepRequest: Sendable, Equatable {
    /// n steps; `mu` shifts flow sigmas by e^mu where the configuration allows it.
    case count(Int, mu: Double? = nil)
    /// Timesteps, noisiest first; `mu` shifts their levels where the configuration allows it.
    case timesteps([Double], mu: Double? = nil)
    /// Noise levels, greatest first; the scheduler's convention decides whether the one after the last step is among them.
    case sigmas([Double], mu: Double? = nil)
    /// Timesteps for the model, with the noise level of each.
    case timestepsAndSigmas([Double], [Double], mu: Double? = nil)

    /// The most steps of a plan; more would be a mistake and fill the memory.
    public static let maximumSteps = Limits.steps

    /// `mu`; nil if it isn't given.
    public var mu: Double? {
        switch self {
        case .count(_, let mu), .timesteps(_, let mu), .sigmas(_, let mu), .timestepsAndSigmas(_, _, let mu): mu
        }
    }

    /// Refuses `mu`, for schedulers that have no dynamic shifting.
    func requireNoMu() throws(SchedulerError) {
        if let mu { throw .invalidValue(key: "mu", value: "\(mu)", allowed: "left out: this scheduler has no dynamic shifting") }
    }

    /// The number of steps, for schedulers that take nothing else.
    ///
    /// - Throws: `invalidValue` for `mu`, lists, and a number that no plan may have.
    func onlyCount() throws(SchedulerError) -> Int {
        try requireNoMu()
        guard case .count(let count, _) = self else {
            throw .invalidValue(
                key: "timesteps or sigmas", value: "given", allowed: "left out: this scheduler takes a number of steps")
        }
        try requireStepCount(count)
        return count
    }
}

/// Refuses a number of steps that no plan may have.
func requireStepCount(_ count: Int) throws(SchedulerError) {
    try require("number of steps", count, in: 1...TimestepRequest.maximumSteps)
}

/// Refuses a number of steps greater than that of the training timesteps, or that no plan may have.
func requireStepCount(_ count: Int, upTo numTrainTimesteps: Int) throws(SchedulerError) {
    try require(
        "number of steps", count, "from 1 to num_train_timesteps = \(numTrainTimesteps)", (1...numTrainTimesteps).contains(count))
    try require("number of steps", count, "at most \(TimestepRequest.maximumSteps)", count <= TimestepRequest.maximumSteps)
}

/// Refuses a list that isn't in order, or has values out of range.
func requireOrdered(
    _ argument: String, _ values: [Double], by inOrder: (Double, Double) -> Bool, within range: ClosedRange<Double>,
    _ allowed: String
) throws(SchedulerError) {
    try require("number of \(argument)", values.count, in: 1...TimestepRequest.maximumSteps)
    for (index, value) in values.enumerated() {
        try require("\(argument)[\(index)]", value, allowed, range.contains(value))
        if index > 0 {
            try require(
                "\(argument)[\(index)]", value,
                "\(inOrder(0, 0) ? "not " : "")\(inOrder(0, 1) != inOrder(0, 0) ? "greater" : "less") than the one before, \(values[index - 1])",
                inOrder(values[index - 1], value))
        }
    }
}

/// Refuses a list of timesteps that doesn't descend to the timestep after the last step.
func requireListWithEnd(_ timesteps: [Double], within range: ClosedRange<Double>, _ allowed: String) throws(SchedulerError) {
    try require(
        "number of timesteps", timesteps.count,
        "from 2 to \(TimestepRequest.maximumSteps): the list ends with the timestep that the last step leads to",
        timesteps.count > 1)
    try requireOrdered("timesteps", timesteps, by: >, within: range, allowed)
}

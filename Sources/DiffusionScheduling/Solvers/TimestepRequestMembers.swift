// SPDX-License-Identifier: Apache-2.0

private func take<Value: ConfigurationValue>(
    _ key: String, as type: Value.Type, from members: inout [String: JSONValue]
) throws(SchedulerError) -> Value? {
    guard let json = members.removeValue(forKey: key), json != .null else { return nil }
    guard let value = Value(json: json) else {
        throw .invalidValue(key: key, value: json.text.quoted, allowed: Value.allowedValues)
    }
    return value
}

extension TimestepGrid {
    /// The grid of the member `levels`, one noise level more than the member `timesteps` has; nil without it.
    ///
    /// - Parameters:
    ///   - members: the arguments, from which both members are removed.
    ///   - process: the process of the levels.
    package init?(takingFrom members: inout [String: JSONValue], process: () throws -> NoiseProcess) throws {
        guard let levels = try take("levels", as: [Double].self, from: &members) else { return nil }
        let timesteps = try take("timesteps", as: [Double].self, from: &members) ?? []
        self.init(timesteps: timesteps, exactSigmas: levels, process: try process())
    }
}

extension TimestepRequest {
    /// The request of diffusers' arguments of `set_timesteps`; the remaining members are options of the run.
    ///
    /// - Parameters:
    ///   - count: `num_inference_steps`; 0 where timesteps or noise levels are given.
    ///   - members: the arguments, from which `timesteps`, `sigmas`, `sigma_schedule` and `mu` are removed. null counts as absent.
    ///   - scheduler: the scheduler whose noise levels a `sigma_schedule` names.
    /// - Throws: `invalidValue` for members of another kind, or that exclude one another.
    package init(
        count: Int, takingFrom members: inout [String: JSONValue], for scheduler: any PlannedScheduler
    ) throws(SchedulerError) {
        let timesteps = try take("timesteps", as: [Double].self, from: &members)
        let sigmas = try take("sigmas", as: [Double].self, from: &members), mu = try take("mu", as: Double.self, from: &members)
        let given = timesteps?.count ?? sigmas?.count
        if let schedule = try take("sigma_schedule", as: SigmaSchedule.self, from: &members) {
            try require("sigma_schedule", "given", "left out where timesteps or sigmas are given", given == nil)
            self = try scheduler.request(count, schedule, mu: mu)
            return
        }
        if let given, count != 0 {
            try require("number of steps", count, "0, or \(given) as the list has", count == given)
        }
        switch (timesteps, sigmas) {
        case (nil, nil): self = .count(count, mu: mu)
        case (nil, let sigmas?): self = .sigmas(sigmas, mu: mu)
        case (let timesteps?, let sigmas?): self = .timestepsAndSigmas(timesteps, sigmas, mu: mu)
        case (let timesteps?, nil): self = .timesteps(timesteps, mu: mu)
        }
    }
}

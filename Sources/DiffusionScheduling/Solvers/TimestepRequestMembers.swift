// SPDX-License-Identifier: Apache-2.0

extension TimestepRequest {
    /// The request of diffusers' arguments of `set_timesteps`; what is left of the members are options of the run.
    ///
    /// - Parameters:
    ///   - count: `num_inference_steps`; 0 where timesteps or noise levels are given.
    ///   - members: `timesteps`, `sigmas` and `mu` are taken from them. null stands for a member that isn't there.
    /// - Throws: `invalidValue` for members of another kind, or that exclude one another.
    package init(count: Int, takingFrom members: inout [String: JSONValue]) throws(SchedulerError) {
        func take<Value: ConfigurationValue>(_ key: String, as type: Value.Type) throws(SchedulerError) -> Value? {
            guard let json = members.removeValue(forKey: key), json != .null else { return nil }
            guard let value = Value(json: json) else {
                throw .invalidValue(key: key, value: json.text.quoted, allowed: Value.allowedValues)
            }
            return value
        }
        let timesteps = try take("timesteps", as: [Double].self), sigmas = try take("sigmas", as: [Double].self)
        let mu = try take("mu", as: Double.self)
        let given = timesteps?.count ?? sigmas?.count
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

// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling

// MARK: - Noise at a level

/// One number for all elements, or one for each index of axis 0.
private func requireCount(_ count: Int, of argument: String, for sample: Tensor) throws {
    guard count == 1 || (count == sample.axis0Count && count > 0) else {
        throw SchedulerError.wrongElementCount(
            argument: argument, count: count, expected: "1, or \(sample.axis0Count) like axis 0 of sample")
    }
}

/// Checks sample, noise and out against each other and combines sample and noise with rates.
private func combine(
    _ sample: Tensor, _ noise: Tensor, into out: Tensor, sampleRates: [Double], noiseRates: [Double], maximumThreads: UInt32
) throws {
    try noise.requireTypeAndShape(of: sample)
    try out.requireTypeAndShape(of: sample)
    try out.requireNoPartialOverlap(with: sample)
    try out.requireNoPartialOverlap(with: noise)
    try Arithmetic.combine(sample, sampleRates, noise, noiseRates, into: out, maximumThreads: maximumThreads)
}

private func levels(
    _ state: PlannedState, _ timesteps: UnsafePointer<Double>?, _ count: Int, for sample: Tensor
) throws -> [NoiseLevel] {
    let timesteps = try require(timesteps, "timesteps")
    try requireCount(count, of: "timesteps", for: sample)
    return try UnsafeBufferPointer(start: timesteps, count: count).map { try state.scheduler.level(atTimestep: $0) }
}

@c(ds_scheduler_add_noise) @implementation
public func ds_scheduler_add_noise(
    _ scheduler: ds_scheduler, _ sample: UnsafePointer<ds_tensor>!, _ noise: UnsafePointer<ds_tensor>!,
    _ timesteps: UnsafePointer<Double>!, _ n_timesteps: Int, _ out: UnsafePointer<ds_tensor>!, _ max_threads: UInt32
) -> ds_status {
    status {
        let state = try scheduler.state, sample = try Tensor(sample, .sample)
        let levels = try levels(state, timesteps, n_timesteps, for: sample)
        try combine(
            sample, Tensor(noise, .noise), into: Tensor(out, .output), sampleRates: levels.map(\.signalRate),
            noiseRates: levels.map(\.noiseRate), maximumThreads: max_threads)
    }
}

@c(ds_combine_noise) @implementation
public func ds_combine_noise(
    _ sample: UnsafePointer<ds_tensor>!, _ noise: UnsafePointer<ds_tensor>!, _ signal_rates: UnsafePointer<Double>!,
    _ noise_rates: UnsafePointer<Double>!, _ n_rates: Int, _ out: UnsafePointer<ds_tensor>!, _ max_threads: UInt32
) -> ds_status {
    status {
        let sample = try Tensor(sample, .sample)
        try requireCount(n_rates, of: "signal_rates and noise_rates", for: sample)
        func rates(_ pointer: UnsafePointer<Double>?, _ argument: StaticString) throws -> [Double] {
            let rates = Array(UnsafeBufferPointer(start: try require(pointer, argument), count: n_rates))
            for (index, rate) in rates.enumerated() where !rate.isFinite {
                throw SchedulerError.invalidValue(key: "\(argument)[\(index)]", value: "\(rate)", allowed: "finite")
            }
            return rates
        }
        try combine(
            sample, Tensor(noise, .noise), into: Tensor(out, .output), sampleRates: rates(signal_rates, "signal_rates"),
            noiseRates: rates(noise_rates, "noise_rates"), maximumThreads: max_threads)
    }
}

@c(ds_scheduler_get_velocity) @implementation
public func ds_scheduler_get_velocity(
    _ scheduler: ds_scheduler, _ sample: UnsafePointer<ds_tensor>!, _ noise: UnsafePointer<ds_tensor>!,
    _ timesteps: UnsafePointer<Double>!, _ n_timesteps: Int, _ out: UnsafePointer<ds_tensor>!, _ max_threads: UInt32
) -> ds_status {
    status {
        let state = try scheduler.state
        guard type(of: state.scheduler).hasVelocity else {
            throw SchedulerError.unsupportedOperation("velocity", className: state.className)
        }
        let sample = try Tensor(sample, .sample)
        let levels = try levels(state, timesteps, n_timesteps, for: sample)
        try combine(
            sample, Tensor(noise, .noise), into: Tensor(out, .output), sampleRates: levels.map { -$0.noiseRate },
            noiseRates: levels.map(\.signalRate), maximumThreads: max_threads)
    }
}

@c(ds_scheduler_scale_model_input) @implementation
public func ds_scheduler_scale_model_input(
    _ scheduler: ds_scheduler, _ sample: UnsafePointer<ds_tensor>!, _ timestep: Double, _ out: UnsafePointer<ds_tensor>!,
    _ max_threads: UInt32
) -> ds_status {
    status {
        let scale = try scheduler.state.scheduler.inputScale(atTimestep: timestep)
        let sample = try Tensor(sample, .sample), out = try Tensor(out, .output)
        try out.requireTypeAndShape(of: sample)
        try out.requireNoPartialOverlap(with: sample)
        try Arithmetic.scale(sample, by: scale, into: out, maximumThreads: max_threads)
    }
}

// MARK: - Guidance

@c(ds_rescale_noise_cfg) @implementation
public func ds_rescale_noise_cfg(
    _ guided: UnsafePointer<ds_tensor>!, _ conditional: UnsafePointer<ds_tensor>!, _ guidance_rescale: Double,
    _ out: UnsafePointer<ds_tensor>!, _ max_threads: UInt32
) -> ds_status {
    status {
        let guided = try Tensor(guided, .guided), conditional = try Tensor(conditional, .conditional)
        let out = try Tensor(out, .output)
        guard (0...1).contains(guidance_rescale) else {
            throw SchedulerError.invalidValue(key: "guidance_rescale", value: "\(guidance_rescale)", allowed: "from 0 to 1")
        }
        try conditional.requireTypeAndShape(of: guided)
        try out.requireTypeAndShape(of: guided)
        try out.requireNoPartialOverlap(with: guided)
        try out.requireNoPartialOverlap(with: conditional)
        let guidance = Guidance(scale: 1, rescale: guidance_rescale)
        let factors = try Arithmetic.variances(guided, conditional, maximumThreads: max_threads).map {
            guidance.factor(guidedVariance: $0.a, conditionalVariance: $0.b)
        }
        try Arithmetic.combine(
            guided, factors, guided, Array(repeating: 0, count: factors.count), into: out, maximumThreads: max_threads)
    }
}

// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling

// MARK: - Planning

private func numbers(_ pointer: UnsafePointer<Double>?, _ count: Int, _ argument: StaticString) throws -> [Double] {
    let pointer = try require(pointer, argument)
    // Numbers beyond the limit need not be read.
    guard (0...TimestepRequest.maximumSteps).contains(count) else {
        throw SchedulerError.invalidValue(
            key: "number of \(argument)", value: "\(UInt(bitPattern: count))", allowed: "at most \(TimestepRequest.maximumSteps)")
    }
    return Array(UnsafeBufferPointer(start: pointer, count: count))
}

@c(ds_scheduler_set_timesteps) @implementation
public func ds_scheduler_set_timesteps(_ scheduler: ds_scheduler, _ n_steps: Int, _ mu: UnsafePointer<Double>!) -> ds_status {
    status { try scheduler.holder.replan { try $0.plan(.count(n_steps, mu: mu?.pointee)) } }
}

@c(ds_scheduler_set_custom_timesteps) @implementation
public func ds_scheduler_set_custom_timesteps(
    _ scheduler: ds_scheduler, _ timesteps: UnsafePointer<Double>!, _ n_steps: Int
) -> ds_status {
    status {
        let holder = try scheduler.holder, timesteps = try numbers(timesteps, n_steps, "timesteps")
        try holder.replan { try $0.plan(.timesteps(timesteps)) }
    }
}

@c(ds_scheduler_set_custom_sigmas) @implementation
public func ds_scheduler_set_custom_sigmas(
    _ scheduler: ds_scheduler, _ sigmas: UnsafePointer<Double>!, _ n_steps: Int
) -> ds_status {
    status {
        let holder = try scheduler.holder, sigmas = try numbers(sigmas, n_steps, "sigmas")
        try holder.replan { try $0.plan(.sigmas(sigmas)) }
    }
}

@c(ds_ddim_set_timesteps) @implementation
public func ds_ddim_set_timesteps(
    _ scheduler: ds_scheduler, _ n_steps: Int, _ eta: Double, _ use_clipped_model_output: Bool
) -> ds_status {
    status {
        let holder = try scheduler.holder
        try holder.replan { scheduler in
            guard let ddim = scheduler as? DDIMScheduler else {
                throw SchedulerError.unsupportedOperation("eta", className: holder.className)
            }
            return try ddim.plan(.count(n_steps), eta: eta, useClippedModelOutput: use_clipped_model_output)
        }
    }
}

// MARK: - The table

@c(ds_scheduler_plan_properties) @implementation
public func ds_scheduler_plan_properties(
    _ scheduler: ds_scheduler, _ properties: UnsafeMutablePointer<ds_plan_properties>!
) -> ds_status {
    status {
        let plan = try scheduler.state.plan, out = try require(properties, "properties")
        var properties = ds_plan_properties()
        properties.n_steps = plan.stepCount
        properties.n_slots = plan.slotCount
        properties.warm_up = plan.warmUp
        properties.init_noise_sigma = plan.initNoiseSigma
        switch plan.clamp {
        case .none:
            properties.clamp = DS_CLAMP_NONE
        case .range(let limit):
            properties.clamp = DS_CLAMP_RANGE
            properties.clamp_range = limit
        case .dynamicThreshold(let ratio, let maximum):
            properties.clamp = DS_CLAMP_THRESHOLD
            properties.threshold_ratio = ratio
            properties.threshold_maximum = maximum
        }
        properties.learns_variance = plan.modelLearnsVariance
        properties.is_stochastic = plan.isStochastic
        switch plan.grid.process {
        case .variancePreserving: properties.process = DS_VARIANCE_PRESERVING
        case .varianceExploding: properties.process = DS_VARIANCE_EXPLODING
        case .flow: properties.process = DS_FLOW
        }
        out.pointee = properties
    }
}

@c(ds_scheduler_step_count) @implementation
public func ds_scheduler_step_count(_ scheduler: ds_scheduler, _ count: UnsafeMutablePointer<Int>!) -> ds_status {
    status { try require(count, "count").pointee = scheduler.state.plan.stepCount }
}

@c(ds_scheduler_timesteps) @implementation
public func ds_scheduler_timesteps(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<Double>!, _ capacity: Int, _ count: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(scheduler.state.scheduler.timesteps, to: buffer, capacity, count) }
}

@c(ds_scheduler_sigmas) @implementation
public func ds_scheduler_sigmas(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<Double>!, _ capacity: Int, _ count: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(scheduler.state.scheduler.sigmas, to: buffer, capacity, count) }
}

@c(ds_scheduler_signal_rates) @implementation
public func ds_scheduler_signal_rates(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<Double>!, _ capacity: Int, _ count: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(scheduler.state.plan.levels.map(\.signalRate), to: buffer, capacity, count) }
}

@c(ds_scheduler_noise_rates) @implementation
public func ds_scheduler_noise_rates(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<Double>!, _ capacity: Int, _ count: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(scheduler.state.plan.levels.map(\.noiseRate), to: buffer, capacity, count) }
}

@c(ds_scheduler_input_scales) @implementation
public func ds_scheduler_input_scales(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<Double>!, _ capacity: Int, _ count: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(scheduler.state.plan.inputScales, to: buffer, capacity, count) }
}

extension ds_combination {
    fileprivate init(_ combination: Combination) {
        self.init()
        sample = combination.sample
        model_output = combination.modelOutput
        noise = combination.noise
        prediction = combination.prediction
        withUnsafeMutableBytes(of: &slots) { slots in
            let slots = slots.bindMemory(to: Double.self)
            for (slot, coefficient) in combination.slots.enumerated() { slots[slot] = coefficient }
        }
    }
}

extension ds_row {
    fileprivate init(_ row: PlanRow, clamp: PredictionClamp) {
        self.init()
        prediction = ds_combination(row.prediction)
        next_sample = ds_combination(row.nextSample)
        n_stores = row.stores.count
        withUnsafeMutableBytes(of: &stores) { stores in
            let stores = stores.bindMemory(to: ds_store.self)
            for (place, store) in row.stores.enumerated() {
                stores[place] = ds_store(slot: store.slot, value: ds_combination(store.value))
            }
        }
        report = ds_combination(row.report ?? (clamp == .none ? row.prediction : Combination(prediction: 1)))
        n_noise_draws = row.drawCount
    }
}

@c(ds_scheduler_row) @implementation
public func ds_scheduler_row(
    _ scheduler: ds_scheduler, _ index: Int, _ age: Int, _ row: UnsafeMutablePointer<ds_row>!
) -> ds_status {
    status {
        let plan = try scheduler.state.plan, out = try require(row, "row")
        guard (0..<plan.stepCount).contains(index) else {
            throw SchedulerError.invalidValue(
                key: "index", value: "\(UInt(bitPattern: index))", allowed: "less than the number of steps, \(plan.stepCount)")
        }
        // C's numbers above Int.max arrive as negative ones.
        out.pointee = ds_row(plan.row(at: index, age: age < 0 ? .max : age), clamp: plan.clamp)
    }
}

@c(ds_ddim_row) @implementation
public func ds_ddim_row(
    _ scheduler: ds_scheduler, _ timestep: Double, _ eta: Double, _ use_clipped_model_output: Bool,
    _ row: UnsafeMutablePointer<ds_row>!
) -> ds_status {
    status {
        let state = try scheduler.state, out = try require(row, "row")
        guard let ddim = state.ddim else {
            throw SchedulerError.unsupportedOperation("step without a session", className: state.className)
        }
        out.pointee = try ds_row(
            ddim.row(at: timestep, options: .init(eta: eta, useClippedModelOutput: use_clipped_model_output)), clamp: ddim.clamp)
    }
}

@c(ds_ddim_inverse_row) @implementation
public func ds_ddim_inverse_row(
    _ scheduler: ds_scheduler, _ timestep: Double, _ row: UnsafeMutablePointer<ds_row>!
) -> ds_status {
    status {
        let state = try scheduler.state, out = try require(row, "row")
        guard let inverse = state.ddimInverse else {
            throw SchedulerError.unsupportedOperation("inverse step without a session", className: state.className)
        }
        out.pointee = try ds_row(inverse.row(to: timestep, stepCount: state.plan.stepCount), clamp: inverse.clamp)
    }
}

@c(ds_scheduler_plan_json) @implementation
public func ds_scheduler_plan_json(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<CChar>!, _ capacity: Int, _ length: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(scheduler.state.plan.json.text, to: buffer, capacity, length) }
}

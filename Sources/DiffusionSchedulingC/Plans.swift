// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

// MARK: - Planning

/// The members of a JSON object that may be left out.
private func members(_ arguments: UnsafePointer<CChar>?) throws -> [String: JSONValue] {
    guard let arguments else { return [:] }
    return try SchedulerCatalog.arguments(json: Array(UnsafeRawBufferPointer(start: arguments, count: strlen(arguments))))
}

@c(ds_scheduler_set_timesteps) @implementation
public func ds_scheduler_set_timesteps(
    _ scheduler: ds_scheduler, _ n_steps: Int, _ arguments: UnsafePointer<CChar>!
) -> ds_status {
    status {
        let holder = try scheduler.holder
        try require(n_steps, in: 0..<Int.max, "number of steps", "at most \(TimestepRequest.maximumSteps)")
        var options = try members(arguments)
        if let grid = try TimestepGrid(takingFrom: &options, process: { try scheduler.state.plan.grid.process }) {
            try holder.replan { try $0.plan(on: grid, optionValues: options) }
        } else {
            try holder.replan { scheduler in
                let request = try TimestepRequest(count: n_steps, takingFrom: &options, for: scheduler)
                return try scheduler.plan(request, optionValues: options)
            }
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

@c(ds_scheduler_output_weights) @implementation
public func ds_scheduler_output_weights(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<Double>!, _ capacity: Int, _ count: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(scheduler.state.plan.outputWeights.flatMap { $0 }, to: buffer, capacity, count) }
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
            for slot in slots.indices { slots[slot] = combination.slots[slot] }
        }
    }
}

extension UnsafeMutablePointer<ds_row> {
    /// Writes a row in place.
    ///
    /// - Parameter reads: the slots that the row reads, in the order of summation.
    fileprivate func write(_ row: PlanRow, clamp: PredictionClamp, reads: [Int] = []) {
        pointee = ds_row()
        pointee.n_reads = reads.count
        withUnsafeMutableBytes(of: &pointee.reads) { bytes in
            let places = bytes.bindMemory(to: Int.self)
            for (place, slot) in reads.enumerated() { places[place] = slot }
        }
        pointee.prediction = ds_combination(row.prediction)
        pointee.next_sample = ds_combination(row.nextSample)
        pointee.n_stores = row.stores.count
        withUnsafeMutableBytes(of: &pointee.stores) { bytes in
            let stores = bytes.bindMemory(to: ds_store.self)
            for (place, store) in row.stores.enumerated() {
                stores[place] = ds_store(slot: store.slot, value: ds_combination(store.value))
            }
        }
        pointee.report = ds_combination(row.report ?? (clamp == .none ? row.prediction : Combination(prediction: 1)))
        pointee.n_noise_draws = row.drawCount
        switch row.noiseFactor {
        case .none: pointee.noise_factor = DS_NOISE_FACTOR_NONE
        case .root: pointee.noise_factor = DS_NOISE_FACTOR_ROOT
        case .exponential(let offset, let slope):
            pointee.noise_factor = DS_NOISE_FACTOR_EXPONENTIAL
            pointee.noise_offset = offset
            pointee.noise_slope = slope
        }
    }
}

private func requireStep(_ index: Int, of plan: SamplingPlan) throws {
    try require(index, in: 0..<plan.stepCount, "index", "less than the number of steps, \(plan.stepCount)")
}

@c(ds_scheduler_row) @implementation
public func ds_scheduler_row(
    _ scheduler: ds_scheduler, _ index: Int, _ age: Int, _ row: UnsafeMutablePointer<ds_row>!
) -> ds_status {
    status {
        let plan = try scheduler.state.plan, out = try require(row, "row")
        try requireStep(index, of: plan)
        // C's numbers above Int.max arrive negative.
        let age = age < 0 ? Int.max : age
        out.write(plan.row(at: index, age: age), clamp: plan.clamp, reads: plan.reads(at: index, age: age))
    }
}

@c(ds_scheduler_attribute_row) @implementation
public func ds_scheduler_attribute_row(
    _ scheduler: ds_scheduler, _ index: Int, _ age: Int, _ row: UnsafeMutablePointer<ds_row>!
) -> ds_status {
    status {
        let state = try scheduler.state, plan = try state.plan, out = try require(row, "row")
        try requireStep(index, of: plan)
        let row = try state.scheduler.attributeRow(at: index, age: age < 0 ? Int.max : age)
        out.write(row, clamp: plan.clamp, reads: (0..<Int(DS_MAX_SLOTS)).filter(row.readsSlot))
    }
}

@c(ds_scheduler_row_at) @implementation
public func ds_scheduler_row_at(
    _ scheduler: ds_scheduler, _ timestep: Double, _ arguments: UnsafePointer<CChar>!, _ row: UnsafeMutablePointer<ds_row>!
) -> ds_status {
    status {
        let state = try scheduler.state, out = try require(row, "row")
        let row = try state.scheduler.row(at: timestep, optionValues: members(arguments))
        try out.write(row, clamp: state.plan.clamp, reads: (0..<Int(DS_MAX_SLOTS)).filter(row.readsSlot))
    }
}

@c(ds_scheduler_part_row) @implementation
public func ds_scheduler_part_row(
    _ scheduler: ds_scheduler, _ index: Int, _ order: UInt32, _ row: UnsafeMutablePointer<ds_row>!
) -> ds_status {
    status {
        let state = try scheduler.state, plan = try state.plan, out = try require(row, "row")
        guard let multistep = state.scheduler as? any MultistepScheduler else {
            throw SchedulerError.unsupportedOperation("parts of a step", className: state.className)
        }
        try requireStep(index, of: plan)
        try out.write(
            order == 0 ? multistep.conversion(ofStep: index) : multistep.update(order: Int(order), ofStep: index),
            clamp: plan.clamp,
            reads: Array(0..<max(Int(order) - 1, 0)))
    }
}

@c(ds_scheduler_plan_json) @implementation
public func ds_scheduler_plan_json(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<CChar>!, _ capacity: Int, _ length: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(scheduler.state.plan.json.text, to: buffer, capacity, length) }
}

@c(ds_scheduler_device_table) @implementation
public func ds_scheduler_device_table(
    _ scheduler: ds_scheduler, _ first_record: Int, _ bytes: UnsafeMutableRawPointer!, _ capacity: Int,
    _ length: UnsafeMutablePointer<Int>!
) -> ds_status {
    status {
        // C's numbers above Int.max arrive negative, which deviceTable refuses.
        let table = try scheduler.state.plan.deviceTable(firstRecord: first_record)
        guard try hasRoom(for: table.count, in: bytes, capacity, length, "length"), let bytes else { return }
        bytes.copyMemory(from: table, byteCount: table.count)
    }
}

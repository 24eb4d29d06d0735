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

// MARK: - Steps without a session

extension Combination {
    @inline(__always)
    fileprivate init(_ combination: ds_combination) {
        self.init(
            sample: combination.sample, modelOutput: combination.model_output, noise: combination.noise,
            prediction: combination.prediction)
        withUnsafeBytes(of: combination.slots) { bytes in
            let coefficients = bytes.assumingMemoryBound(to: Double.self)
            for slot in coefficients.indices { slots[slot] = coefficients[slot] }
        }
    }
}

extension PlanRow.Store {
    /// - Throws: `invalidValue` for a number that isn't a slot's.
    fileprivate init(_ store: ds_store, place: Int) throws {
        let last = Combination.maximumSlotCount - 1
        try require(store.slot, in: 0..<last + 1, "stores[\(place)].slot", "from 0 to \(last)")
        self.init(slot: store.slot, value: Combination(store.value))
    }
}

extension PlanRow {
    /// - Throws: `invalidValue` for a number of stores or of a slot that is out of range. The rest is checked by `step`.
    fileprivate init(_ row: UnsafePointer<ds_row>) throws {
        try requireAtMost(Self.maximumStoreCount, row.pointee.n_stores, "n_stores")
        var stores: [Store] = []
        if row.pointee.n_stores > 0 { stores.append(try Store(row.pointee.stores.0, place: 0)) }
        if row.pointee.n_stores > 1 { stores.append(try Store(row.pointee.stores.1, place: 1)) }
        self.init(
            prediction: Combination(row.pointee.prediction), nextSample: Combination(row.pointee.next_sample), stores: stores,
            report: Combination(row.pointee.report))
    }
}

@inline(__always)
private func requireAtMost(_ most: Int, _ count: Int, _ argument: StaticString) throws {
    try require(count, in: 0..<most + 1, "\(argument)", "at most \(most)")
}

/// The tensors of a call to ds_scheduler_row_step, besides slots and stores.
private struct RowTensors {
    let sample: Tensor
    let modelOutput, noise, nextSample, report: UnsafePointer<ds_tensor>?

    /// Checks that a slot's tensor is like the sample and no output.
    ///
    /// Steps of two passes read slots after the first pass has written: outputs are in place of no slot.
    func requireSlot(_ tensor: Tensor) throws {
        try tensor.requireTypeAndShape(of: sample)
        try Tensor(nextSample, .nextSample, like: sample).requireNoOverlap(with: tensor, orInPlace: false)
        try Tensor.optional(report, .report, like: sample)?.requireNoOverlap(with: tensor, orInPlace: false)
    }

    /// Checks that a tensor that the row stores to shares no memory with the others.
    func requireStore(_ tensor: Tensor) throws {
        try tensor.requireNoOverlap(with: sample, orInPlace: false)
        try tensor.requireNoOverlap(with: Tensor(modelOutput, .modelOutput, like: sample), orInPlace: false)
        if let noise = try Tensor.optional(noise, .noise, like: sample) {
            try tensor.requireNoOverlap(with: noise, orInPlace: false)
        }
    }
}

extension RowSlots {
    /// The slots that a row uses and the tensors that it stores to, each checked and all checked against the call's other tensors, which
    /// are checked already.
    ///
    /// - Parameters:
    ///   - stores: nil where the row stores to its slots.
    ///   - inOrder: whether they are in the order of the slots, as those of `row` are.
    fileprivate init(
        of row: PlanRow, _ slots: UnsafePointer<ds_tensor>?, count: Int, stores: UnsafePointer<ds_tensor>?, inOrder: Bool,
        beside call: RowTensors
    ) throws {
        self.init()
        try requireAtMost(Combination.maximumSlotCount, count, "n_slots")
        let slots = count > 0 ? try require(slots, "slots") : slots
        var tensors = InlineArray<8, Tensor?>(repeating: nil)
        func add(_ tensor: Tensor, at place: Int, isStored: (Int) -> Bool) throws {
            try call.requireSlot(tensor)
            if isStored(place) { try call.requireStore(tensor) }
            for other in 0..<place where isStored(place) || isStored(other) {
                if let other = tensors[other] { try tensor.requireNoOverlap(with: other, orInPlace: false) }
            }
            tensors[place] = tensor
        }
        for slot in 0..<count where stores == nil ? row.usesSlot(slot) : row.readsSlot(slot) {
            let tensor = try Tensor(slots! + slot, .slot(slot), like: call.sample)
            try add(tensor, at: slot) { stores == nil && row.storesSlot($0) }
            set(slot, to: tensor.address)
        }
        guard let stores else { return }
        for place in row.stores.indices {
            let given = inOrder ? place : row.stores.count - 1 - place
            let tensor = try Tensor(stores + given, .store(given), like: call.sample)
            try add(tensor, at: Combination.maximumSlotCount + place) { $0 >= Combination.maximumSlotCount }
            setStore(place, to: tensor.address)
        }
    }
}

@c(ds_scheduler_row_step) @implementation
public func ds_scheduler_row_step(
    _ scheduler: ds_scheduler, _ row: UnsafePointer<ds_row>!, _ model_output: UnsafePointer<ds_tensor>!,
    _ sample: UnsafePointer<ds_tensor>!, _ noise: UnsafePointer<ds_tensor>!, _ slots: UnsafePointer<ds_tensor>!, _ n_slots: Int,
    _ stores: UnsafePointer<ds_tensor>!, _ prev_sample: UnsafePointer<ds_tensor>!,
    _ pred_original_sample: UnsafePointer<ds_tensor>!, _ max_threads: UInt32
) -> ds_status {
    status {
        let plan = try scheduler.state.plan, given = try require(row, "row")
        let row = try PlanRow(given)
        let sample = try Tensor(sample, .sample)
        let tensors = try StepTensors(
            sample: sample, modelOutput: model_output, noise: noise, nextSample: prev_sample, report: pred_original_sample,
            modelLearnsVariance: plan.modelLearnsVariance)
        var rowSlots = RowSlots()
        let readCount = given.pointee.n_reads
        try requireAtMost(Combination.maximumSlotCount, readCount, "n_reads")
        if n_slots != 0 || readCount != 0 || stores != nil {
            rowSlots = try RowSlots(
                of: row, slots, count: n_slots, stores: stores,
                inOrder: given.pointee.n_stores < 2 || given.pointee.stores.0.slot < given.pointee.stores.1.slot,
                beside: RowTensors(
                    sample: sample, modelOutput: model_output, noise: noise, nextSample: prev_sample, report: pred_original_sample))
            let reads = UnsafeRawPointer(given).advanced(by: MemoryLayout<ds_row>.offset(of: \.reads)!)
            try rowSlots.setOrder(UnsafeBufferPointer(start: reads.assumingMemoryBound(to: Int.self), count: readCount))
        }
        try row.step(
            clamp: plan.clamp, tensors, slots: rowSlots, batchSize: sample.batchSize,
            modelLearnsVariance: plan.modelLearnsVariance, maximumThreads: Int(max_threads))
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
        let factors = try Arithmetic.variances(guided, conditional, maximumThreads: max_threads).map {
            guidanceFactor(guidedVariance: $0.a, conditionalVariance: $0.b, guidanceRescale: guidance_rescale)
        }
        try Arithmetic.combine(
            guided, factors, guided, Array(repeating: 0, count: factors.count), into: out, maximumThreads: max_threads)
    }
}

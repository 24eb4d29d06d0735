// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling

/// An immutable scheduler, before or after `setTimesteps`.
final class PlannedState: Sendable {
    let scheduler: any PlannedScheduler
    /// nil before `setTimesteps`. Kept here, because reading it from the scheduler makes a copy.
    private let planned: SamplingPlan?

    init(_ scheduler: any PlannedScheduler) {
        self.scheduler = scheduler
        planned = scheduler.plan
    }

    @inline(__always)
    var plan: SamplingPlan {
        get throws {
            guard let planned else { throw SchedulerError.timestepsNotSet }
            return planned
        }
    }

    var className: String { type(of: scheduler.configuration).className }
}

/// The object behind a scheduler's handle: the scheduler without a plan, and its current state.
final class SchedulerHolder: Sendable {
    private let unplanned: any PlannedScheduler
    private let state: PublishedState

    init(_ scheduler: any PlannedScheduler) {
        unplanned = scheduler
        state = PublishedState(PlannedState(scheduler))
    }

    @inline(__always)
    func read<Result>(_ body: (borrowing PlannedState) throws -> Result) rethrows -> Result { try state.read(body) }

    var className: String { type(of: unplanned.configuration).className }

    /// Plans a run for future sessions.
    func replan(_ plan: (any PlannedScheduler) throws -> SamplingPlan) throws {
        var scheduler = unplanned
        scheduler.session = SamplingSession(plan: try plan(scheduler))
        state.replace(with: PlannedState(scheduler))
    }
}

let schedulers = HandleTable<SchedulerHolder>(kind: "scheduler", number: 1)

extension ds_scheduler {
    @inline(__always)
    var holder: SchedulerHolder {
        get throws { try schedulers.value(of: handle).pointee }
    }

    /// The current state.
    @inline(__always)
    var state: PlannedState {
        get throws { try holder.read { copy $0 } }
    }
}

// MARK: - The library

@c(ds_runtime_description) @implementation
public func ds_runtime_description() -> UnsafePointer<CChar>! { Arithmetic.runtimeDescription }

@c(ds_element_size) @implementation
public func ds_element_size(_ type: ds_element_type) -> Int { ElementType(type)?.size ?? 0 }

// MARK: - Making

/// Copies that are never freed, as the header promises.
private func permanentCopies(of texts: [String]) -> [UnsafePointer<CChar>] {
    texts.map { text in
        let units = text.utf8CString
        let copy = UnsafeMutableBufferPointer<CChar>.allocate(capacity: units.count)
        _ = copy.initialize(from: units)
        return UnsafePointer(copy.baseAddress!)
    }
}

nonisolated(unsafe) private let supportedClassNames = permanentCopies(of: SchedulerCatalog.supportedClassNames)
nonisolated(unsafe) private let samplerNames = permanentCopies(of: SchedulerCatalog.samplerNames)

@c(ds_sampler_name) @implementation
public func ds_sampler_name(_ index: Int) -> UnsafePointer<CChar>! {
    samplerNames.indices.contains(index) ? samplerNames[index] : nil
}

@c(ds_supported_class_name) @implementation
public func ds_supported_class_name(_ index: Int) -> UnsafePointer<CChar>! {
    supportedClassNames.indices.contains(index) ? supportedClassNames[index] : nil
}

@c(ds_class_description) @implementation
public func ds_class_description(
    _ class_name: UnsafePointer<CChar>!, _ buffer: UnsafeMutablePointer<CChar>!, _ capacity: Int,
    _ length: UnsafeMutablePointer<Int>!
) -> ds_status {
    status {
        let name = try text(require(class_name, "class_name"), "class_name") ?? ""
        try deliver(SchedulerCatalog.description(ofClass: name).text, to: buffer, capacity, length)
    }
}

private func text(_ pointer: UnsafePointer<CChar>?, _ argument: StaticString) throws -> String? {
    guard let pointer else { return nil }
    guard let text = String(validatingCString: pointer) else {
        throw SchedulerError.invalidValue(key: "\(argument)", value: "not UTF-8", allowed: "UTF-8 text")
    }
    return text
}

private func overrides(_ pointer: UnsafePointer<CChar>?) throws -> [String: JSONValue] {
    guard let text = try text(pointer, "overrides") else { return [:] }
    return try SchedulerCatalog.overrides(json: Array(text.utf8))
}

@c(ds_scheduler_create) @implementation
public func ds_scheduler_create(
    _ json: UnsafePointer<CChar>!, _ length: Int, _ class_name: UnsafePointer<CChar>!, _ overrides: UnsafePointer<CChar>!,
    _ scheduler: UnsafeMutablePointer<ds_scheduler>!
) -> ds_status {
    status {
        let json = try require(json, "json"), out = try require(scheduler, "scheduler")
        guard length >= 0 else { throw CallError.tooLarge(argument: "json") }
        // Bytes beyond the limit need not be copied.
        let bytes = Array(UnsafeRawBufferPointer(start: json, count: min(length, Limits.configurationByteCount + 1)))
        out.pointee.handle = try schedulers.insert(
            SchedulerHolder(
                SchedulerCatalog.makeScheduler(
                    json: bytes, className: text(class_name, "class_name"),
                    overrides: DiffusionSchedulingC.overrides(overrides))))
    }
}

@c(ds_scheduler_load) @implementation
public func ds_scheduler_load(
    _ path: UnsafePointer<CChar>!, _ subfolder: UnsafePointer<CChar>!, _ class_name: UnsafePointer<CChar>!,
    _ overrides: UnsafePointer<CChar>!, _ scheduler: UnsafeMutablePointer<ds_scheduler>!
) -> ds_status {
    status {
        let path = try require(path, "path"), out = try require(scheduler, "scheduler")
        out.pointee.handle = try schedulers.insert(
            SchedulerHolder(
                SchedulerCatalog.makeScheduler(
                    contentsOf: text(path, "path") ?? "", subfolder: text(subfolder, "subfolder"),
                    className: text(class_name, "class_name"), overrides: DiffusionSchedulingC.overrides(overrides))))
    }
}

@c(ds_scheduler_free) @implementation
public func ds_scheduler_free(_ scheduler: ds_scheduler) -> ds_status {
    status { if scheduler.handle != 0 { try schedulers.remove(scheduler.handle) } }
}

@c(ds_scheduler_create_named) @implementation
public func ds_scheduler_create_named(
    _ name: UnsafePointer<CChar>!, _ model: ds_scheduler, _ overrides: UnsafePointer<CChar>!,
    _ scheduler: UnsafeMutablePointer<ds_scheduler>!
) -> ds_status {
    status {
        let name = try text(require(name, "name"), "name") ?? "", out = try require(scheduler, "scheduler")
        out.pointee.handle = try schedulers.insert(
            SchedulerHolder(
                SchedulerCatalog.makeScheduler(
                    named: name, for: model.handle == 0 ? nil : model.state.scheduler,
                    overrides: DiffusionSchedulingC.overrides(overrides))))
    }
}

// MARK: - What a scheduler is

@c(ds_scheduler_class_name) @implementation
public func ds_scheduler_class_name(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<CChar>!, _ capacity: Int, _ length: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(scheduler.state.className, to: buffer, capacity, length) }
}

@c(ds_scheduler_config_json) @implementation
public func ds_scheduler_config_json(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<CChar>!, _ capacity: Int, _ length: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(scheduler.state.scheduler.configuration.jsonText, to: buffer, capacity, length) }
}

private func deliver(
    _ texts: [String], to buffer: UnsafeMutablePointer<CChar>!, _ capacity: Int, _ length: UnsafeMutablePointer<Int>!
) throws {
    try deliver(JSONValue.array(texts.map { .string($0) }).text, to: buffer, capacity, length)
}

@c(ds_scheduler_sampler_names) @implementation
public func ds_scheduler_sampler_names(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<CChar>!, _ capacity: Int, _ length: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(SchedulerCatalog.samplerNames(of: scheduler.state.scheduler), to: buffer, capacity, length) }
}

@c(ds_scheduler_defaulted_keys) @implementation
public func ds_scheduler_defaulted_keys(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<CChar>!, _ capacity: Int, _ length: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(scheduler.state.scheduler.configuration.defaultedKeys, to: buffer, capacity, length) }
}

@c(ds_scheduler_unused_keys) @implementation
public func ds_scheduler_unused_keys(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<CChar>!, _ capacity: Int, _ length: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(scheduler.state.scheduler.configuration.unusedKeys, to: buffer, capacity, length) }
}

@c(ds_scheduler_num_train_timesteps) @implementation
public func ds_scheduler_num_train_timesteps(_ scheduler: ds_scheduler, _ count: UnsafeMutablePointer<Int>!) -> ds_status {
    status { try require(count, "count").pointee = scheduler.state.scheduler.count }
}

@c(ds_scheduler_alphas_cumprod) @implementation
public func ds_scheduler_alphas_cumprod(
    _ scheduler: ds_scheduler, _ buffer: UnsafeMutablePointer<Double>!, _ capacity: Int, _ count: UnsafeMutablePointer<Int>!
) -> ds_status {
    status { try deliver(scheduler.state.scheduler.noiseSchedule.alphasCumprod, to: buffer, capacity, count) }
}

@c(ds_scheduler_init_noise_sigma) @implementation
public func ds_scheduler_init_noise_sigma(_ scheduler: ds_scheduler, _ sigma: UnsafeMutablePointer<Double>!) -> ds_status {
    status { try require(sigma, "sigma").pointee = scheduler.state.scheduler.initNoiseSigma }
}

// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling

/// The object behind a session's handle.
struct SessionHolder {
    var session: SamplingSession
    /// Whether the current ds_sessions_step already has the session.
    var isTaken = false

    init(session: SamplingSession) { self.session = session }
}

let sessions = HandleTable<SessionHolder>(kind: "session", number: 2)

extension ds_session {
    @inline(__always)
    var holder: UnsafeMutablePointer<SessionHolder> {
        get throws { try sessions.value(of: handle) }
    }
}

// MARK: - Making

private func requireBeginIndex(_ index: Int, in plan: SamplingPlan) throws {
    try require(index, in: 0..<plan.stepCount + 1, "begin_index", "at most the number of steps, \(plan.stepCount)")
    try plan.requireStart(index, "begin_index")
}

@c(ds_session_create) @implementation
public func ds_session_create(
    _ scheduler: ds_scheduler, _ begin_index: Int, _ session: UnsafeMutablePointer<ds_session>!
) -> ds_status {
    status {
        let plan = try scheduler.state.plan, out = try require(session, "session")
        try requireBeginIndex(begin_index, in: plan)
        out.pointee.handle = try sessions.insert(
            SessionHolder(session: SamplingSession(plan: plan, beginIndex: begin_index)))
    }
}

@c(ds_session_free) @implementation
public func ds_session_free(_ session: ds_session) -> ds_status {
    status { if session.handle != 0 { try sessions.remove(session.handle) } }
}

@c(ds_session_copy) @implementation
public func ds_session_copy(_ session: ds_session, _ copy: UnsafeMutablePointer<ds_session>!) -> ds_status {
    status {
        let holder = try session.holder.pointee, out = try require(copy, "copy")
        out.pointee.handle = try sessions.insert(holder)
    }
}

@c(ds_session_reset) @implementation
public func ds_session_reset(_ session: ds_session) -> ds_status {
    status { try session.holder.pointee.session.reset() }
}

// MARK: - Where it stands

@c(ds_session_step_index) @implementation
public func ds_session_step_index(_ session: ds_session, _ index: UnsafeMutablePointer<Int>!) -> ds_status {
    status { try require(index, "index").pointee = session.holder.pointee.session.stepIndex }
}

@c(ds_session_timestep) @implementation
public func ds_session_timestep(_ session: ds_session, _ timestep: UnsafeMutablePointer<Double>!) -> ds_status {
    status {
        let holder = try session.holder, out = try require(timestep, "timestep")
        guard let timestep = holder.pointee.session.timestep else {
            throw SchedulerError.stepPastEnd(stepCount: holder.pointee.session.plan.stepCount)
        }
        out.pointee = timestep
    }
}

@c(ds_session_needs_noise) @implementation
public func ds_session_needs_noise(_ session: ds_session, _ needs_noise: UnsafeMutablePointer<Bool>!) -> ds_status {
    status {
        let session = try session.holder.pointee.session, out = try require(needs_noise, "needs_noise")
        guard session.timestep != nil else { throw SchedulerError.stepPastEnd(stepCount: session.plan.stepCount) }
        out.pointee = session.needsNoise
    }
}

// MARK: - Steps

extension Guidance {
    fileprivate init(_ guidance: ds_guidance) { self.init(scale: guidance.scale, rescale: guidance.rescale) }
}

extension ds_session {
    /// Takes a step in any of its forms.
    @inline(__always)
    fileprivate func step(
        _ modelOutput: UnsafePointer<ds_tensor>?, called name: TensorName = .modelOutput, unconditional: Tensor? = nil,
        guidance: Guidance? = nil, _ sample: UnsafePointer<ds_tensor>?, _ noise: UnsafePointer<ds_tensor>?,
        into nextSample: UnsafePointer<ds_tensor>?, _ report: UnsafePointer<ds_tensor>?, modelInput: Tensor? = nil,
        maximumThreads: UInt32
    ) throws {
        let holder = try holder, sample = try Tensor(sample, .sample)
        let tensors = try StepTensors(
            sample: sample, modelOutput: modelOutput, called: name, unconditional: unconditional, noise: noise,
            nextSample: nextSample, report: report, modelInput: modelInput,
            modelLearnsVariance: holder.pointee.session.plan.modelLearnsVariance)
        holder.pointee.session.maximumThreads = Int(maximumThreads)
        try holder.pointee.session.step(tensors, guidance: guidance, batchSize: sample.batchSize)
    }
}

@c(ds_session_step) @implementation
public func ds_session_step(
    _ session: ds_session, _ model_output: UnsafePointer<ds_tensor>!, _ sample: UnsafePointer<ds_tensor>!,
    _ noise: UnsafePointer<ds_tensor>!, _ prev_sample: UnsafePointer<ds_tensor>!,
    _ pred_original_sample: UnsafePointer<ds_tensor>!, _ max_threads: UInt32
) -> ds_status {
    status { try session.step(model_output, sample, noise, into: prev_sample, pred_original_sample, maximumThreads: max_threads) }
}

@c(ds_session_step_with_input) @implementation
public func ds_session_step_with_input(
    _ session: ds_session, _ model_output: UnsafePointer<ds_tensor>!, _ sample: UnsafePointer<ds_tensor>!,
    _ noise: UnsafePointer<ds_tensor>!, _ prev_sample: UnsafePointer<ds_tensor>!,
    _ pred_original_sample: UnsafePointer<ds_tensor>!, _ model_input: UnsafePointer<ds_tensor>!, _ max_threads: UInt32
) -> ds_status {
    status {
        try session.step(
            model_output, sample, noise, into: prev_sample, pred_original_sample, modelInput: Tensor(model_input, .modelInput),
            maximumThreads: max_threads)
    }
}

@c(ds_session_step_guided) @implementation
public func ds_session_step_guided(
    _ session: ds_session, _ conditional: UnsafePointer<ds_tensor>!, _ unconditional: UnsafePointer<ds_tensor>!,
    _ guidance: UnsafePointer<ds_guidance>!, _ sample: UnsafePointer<ds_tensor>!, _ noise: UnsafePointer<ds_tensor>!,
    _ prev_sample: UnsafePointer<ds_tensor>!, _ pred_original_sample: UnsafePointer<ds_tensor>!, _ max_threads: UInt32
) -> ds_status {
    status {
        try session.step(
            conditional, called: .conditional, unconditional: Tensor(unconditional, .unconditional),
            guidance: Guidance(require(guidance, "guidance").pointee), sample, noise, into: prev_sample, pred_original_sample,
            maximumThreads: max_threads)
    }
}

@c(ds_sessions_step) @implementation
public func ds_sessions_step(
    _ sessions: UnsafePointer<ds_session>!, _ n_rows: Int, _ model_output: UnsafePointer<ds_tensor>!,
    _ unconditional: UnsafePointer<ds_tensor>!, _ guidance: UnsafePointer<ds_guidance>!, _ sample: UnsafePointer<ds_tensor>!,
    _ noise: UnsafePointer<ds_tensor>!, _ prev_sample: UnsafePointer<ds_tensor>!, _ pred_original_sample: UnsafePointer<ds_tensor>!,
    _ max_threads: UInt32
) -> ds_status {
    status {
        let handles = try require(sessions, "sessions"), sample = try Tensor(sample, .sample)
        guard n_rows == sample.axis0Count, sample.rank > 0 else {
            throw SchedulerError.invalidValue(
                key: "n_rows", value: "\(UInt(bitPattern: n_rows))", allowed: "the extent of axis 0 of sample, \(sample.axis0Count)"
            )
        }
        let tensors = try StepTensors(
            sample: sample, modelOutput: model_output, unconditional: Tensor.optional(unconditional, .unconditional), noise: noise,
            nextSample: prev_sample, report: pred_original_sample, modelLearnsVariance: sample.rank > 1)
        var holders: [UnsafeMutablePointer<SessionHolder>?] = []
        holders.reserveCapacity(n_rows)
        defer { for holder in holders { holder?.pointee.isTaken = false } }
        for row in 0..<n_rows {
            guard handles[row].handle != 0 else {
                holders.append(nil)
                continue
            }
            let holder = try handles[row].holder
            guard !holder.pointee.isTaken else {
                throw SchedulerError.invalidValue(
                    key: "sessions[\(row)]", value: "the session of another row", allowed: "a different one")
            }
            holder.pointee.isTaken = true
            holders.append(holder)
        }
        let place = MemoryLayout<SessionHolder>.offset(of: \.session)!
        let rows = SessionRows(
            holders.map {
                $0.map { UnsafeMutableRawPointer($0).advanced(by: place).assumingMemoryBound(to: SamplingSession.self) }
            },
            guidance: guidance == nil ? [] : (0..<n_rows).map { guidance[$0].scale == 1 ? nil : Guidance(guidance[$0]) },
            maximumThreads: Int(max_threads))
        try rows.step(tensors)
    }
}

// MARK: - Saving

@c(ds_session_save) @implementation
public func ds_session_save(
    _ session: ds_session, _ bytes: UnsafeMutableRawPointer!, _ capacity: Int, _ length: UnsafeMutablePointer<Int>!
) -> ds_status {
    status {
        let session = try session.holder.pointee.session
        let count = session.savedByteCount
        guard try hasRoom(for: count, in: bytes, capacity, length, "length"), let bytes else { return }
        session.save(to: UnsafeMutableRawBufferPointer(start: bytes, count: count))
    }
}

@c(ds_session_restore) @implementation
public func ds_session_restore(
    _ scheduler: ds_scheduler, _ bytes: UnsafeRawPointer!, _ length: Int, _ session: UnsafeMutablePointer<ds_session>!
) -> ds_status {
    status {
        let plan = try scheduler.state.plan
        let saved = UnsafeRawBufferPointer(start: try require(bytes, "bytes"), count: max(length, 0))
        let out = try require(session, "session")
        out.pointee.handle = try sessions.insert(
            SessionHolder(session: SamplingSession(plan: plan, restoring: saved)))
    }
}

@c(ds_session_restore_like) @implementation
public func ds_session_restore_like(
    _ other: ds_session, _ bytes: UnsafeRawPointer!, _ length: Int, _ session: UnsafeMutablePointer<ds_session>!
) -> ds_status {
    status {
        let plan = try other.holder.pointee.session.plan
        let saved = UnsafeRawBufferPointer(start: try require(bytes, "bytes"), count: max(length, 0))
        let out = try require(session, "session")
        out.pointee.handle = try sessions.insert(
            SessionHolder(session: SamplingSession(plan: plan, restoring: saved)))
    }
}

@c(ds_session_create_on_plan) @implementation
public func ds_session_create_on_plan(
    _ json: UnsafePointer<CChar>!, _ length: Int, _ begin_index: Int, _ session: UnsafeMutablePointer<ds_session>!
) -> ds_status {
    status {
        let text = UnsafeRawBufferPointer(start: try require(json, "json"), count: max(length, 0))
        let plan = try SamplingPlan(jsonBytes: Array(text)), out = try require(session, "session")
        try requireBeginIndex(begin_index, in: plan)
        out.pointee.handle = try sessions.insert(
            SessionHolder(session: SamplingSession(plan: plan, beginIndex: begin_index)))
    }
}

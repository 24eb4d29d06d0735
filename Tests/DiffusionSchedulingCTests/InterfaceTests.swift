// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling
import Foundation
import Testing

@testable import DiffusionSchedulingC

struct CallFailed: Error, CustomStringConvertible {
    let status: ds_status
    let description: String
}

func call(_ status: ds_status) throws {
    if status != DS_OK { throw CallFailed(status: status, description: String(cString: ds_error_message())) }
}

/// Prepares a row and steps with it.
func rowStep(
    _ scheduler: ds_scheduler, _ row: UnsafePointer<ds_row>, _ modelOutput: UnsafePointer<ds_tensor>?,
    _ sample: UnsafePointer<ds_tensor>?, _ noise: UnsafePointer<ds_tensor>?, _ slots: UnsafePointer<ds_tensor>?, _ slotCount: Int,
    _ stores: UnsafePointer<ds_tensor>?, _ nextSample: UnsafePointer<ds_tensor>?, _ report: UnsafePointer<ds_tensor>?,
    _ maximumThreads: UInt32
) -> ds_status {
    var prepared = ds_prepared_row()
    let status = ds_scheduler_prepare_row(scheduler, row, &prepared)
    guard status == DS_OK else { return status }
    return ds_row_step(&prepared, modelOutput, sample, noise, slots, slotCount, stores, nextSample, report, maximumThreads)
}

/// A tensor of the interface over an array, valid while `body` runs.
func withTensor<Element: TensorElement, Result>(
    _ values: inout [Element], shape: [Int64]? = nil, _ body: (UnsafePointer<ds_tensor>) throws -> Result
) rethrows -> Result {
    try (shape ?? [Int64(values.count)]).withUnsafeBufferPointer { shape in
        try values.withUnsafeMutableBytes { bytes in
            var tensor = ds_tensor(
                data: bytes.baseAddress, element_type: ds_element_type(Element.elementType.savedNumber), rank: shape.count,
                shape: shape.baseAddress)
            return try withUnsafePointer(to: &tensor, body)
        }
    }
}

/// Tensors of one shape over arrays, valid while `body` runs.
func withTensors<Element: TensorElement, Result>(
    _ values: inout [[Element]], shape: [Int64], _ body: ([UnsafePointer<ds_tensor>]) throws -> Result
) throws -> Result {
    var views: [UnsafePointer<ds_tensor>] = []
    func withRest(_ index: Int) throws -> Result {
        if index == values.count { return try body(views) }
        var own: [Element] = []
        swap(&own, &values[index])
        defer { swap(&own, &values[index]) }
        return try withTensor(&own, shape: shape) { view in
            views.append(view)
            return try withRest(index + 1)
        }
    }
    return try withRest(0)
}

/// The result of a function that fills a caller's buffer.
func numbers(_ function: (UnsafeMutablePointer<Double>?, Int, UnsafeMutablePointer<Int>?) -> ds_status) throws -> [Double] {
    var count = 0
    try call(function(nil, 0, &count))
    var values = [Double](repeating: .nan, count: count)
    var told = -1
    try call(function(&values, count, &told))
    #expect(told == count)
    return values
}

func text(_ function: (UnsafeMutablePointer<CChar>?, Int, UnsafeMutablePointer<Int>?) -> ds_status) throws -> String {
    var count = 0
    try call(function(nil, 0, &count))
    var units = [CChar](repeating: 1, count: count + 1)
    try call(function(&units, count + 1, nil))
    #expect(units[count] == 0)
    return String(decoding: units.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

func bytes(_ function: (UnsafeMutableRawPointer?, Int, UnsafeMutablePointer<Int>?) -> ds_status) throws -> [UInt8] {
    var count = 0
    try call(function(nil, 0, &count))
    var bytes = [UInt8](repeating: 0, count: count)
    try call(function(&bytes, count, nil))
    return bytes
}

func makeScheduler(_ json: String, className: String? = nil, overrides: String? = nil) throws -> ds_scheduler {
    var scheduler = ds_scheduler()
    try call(ds_scheduler_create(json, json.utf8.count, className, overrides, &scheduler))
    return scheduler
}

/// Every function of the interface gives the Swift library's result.
@Suite struct InterfaceTests {
    static let configurations = SessionStateTests.configurations

    static func tensor(_ index: Int, count: Int) -> [Float] { SessionStateTests.tensor(index, count: count) }

    // MARK: Schedulers and plans

    @Test(arguments: configurations) func describesSchedulers(_ json: String) throws {
        let handle = try makeScheduler(json), scheduler = try SchedulerCatalog.makeScheduler(json: json)
        defer { ds_scheduler_free(handle) }
        #expect(try text { ds_scheduler_config_json(handle, $0, $1, $2) } == scheduler.configuration.jsonText)
        #expect(try text { ds_scheduler_class_name(handle, $0, $1, $2) } == type(of: scheduler.configuration).className)
        #expect(try text { ds_scheduler_unused_keys(handle, $0, $1, $2) } == "[]")
        #expect(try numbers { ds_scheduler_alphas_cumprod(handle, $0, $1, $2) } == scheduler.noiseSchedule.alphasCumprod)
        #expect(try numbers { ds_scheduler_timesteps(handle, $0, $1, $2) } == scheduler.timesteps)
        #expect(try numbers { ds_scheduler_sigmas(handle, $0, $1, $2) } == scheduler.sigmas)
        var count = 0, sigma = 0.0
        try call(ds_scheduler_num_train_timesteps(handle, &count))
        try call(ds_scheduler_init_noise_sigma(handle, &sigma))
        #expect(count == 1000 && sigma == scheduler.initNoiseSigma)
    }

    @Test(arguments: configurations) func describesPlans(_ json: String) throws {
        let handle = try makeScheduler(json)
        defer { ds_scheduler_free(handle) }
        try call(ds_scheduler_set_timesteps(handle, 7, nil))
        try Self.compare(handle, with: SessionStateTests.plan(json, steps: 7))
    }

    static func compare(_ handle: ds_scheduler, with plan: SamplingPlan) throws {
        #expect(try numbers { ds_scheduler_timesteps(handle, $0, $1, $2) } == plan.timesteps)
        #expect(try numbers { ds_scheduler_sigmas(handle, $0, $1, $2) } == plan.sigmas)
        #expect(try numbers { ds_scheduler_signal_rates(handle, $0, $1, $2) } == plan.levels.map(\.signalRate))
        #expect(try numbers { ds_scheduler_noise_rates(handle, $0, $1, $2) } == plan.levels.map(\.noiseRate))
        // Foundation's decoder reads the plan's text, which is written without Foundation.
        let json = try text { ds_scheduler_plan_json(handle, $0, $1, $2) }
        #expect(try JSONDecoder().decode(SamplingPlan.self, from: Data(json.utf8)) == plan)
        var properties = ds_plan_properties()
        try call(ds_scheduler_plan_properties(handle, &properties))
        #expect(properties.n_steps == plan.stepCount)
        #expect(properties.n_slots == plan.slotCount && properties.warm_up == plan.warmUp)
        #expect(try numbers { ds_scheduler_input_scales(handle, $0, $1, $2) } == plan.inputScales)
        #expect(try numbers { ds_scheduler_output_weights(handle, $0, $1, $2) } == plan.outputWeights.flatMap { $0 })
        #expect(properties.init_noise_sigma == plan.initNoiseSigma)
        #expect(properties.learns_variance == plan.modelLearnsVariance)
        #expect(properties.is_stochastic == plan.isStochastic)
        let process =
            switch plan.grid.process {
            case .variancePreserving: DS_VARIANCE_PRESERVING
            case .varianceExploding: DS_VARIANCE_EXPLODING
            case .flow: DS_FLOW
            }
        #expect(properties.process == process)
        switch plan.clamp {
        case .none: #expect(properties.clamp == DS_CLAMP_NONE)
        case .range(let limit): #expect(properties.clamp == DS_CLAMP_RANGE && properties.clamp_range == limit)
        case .dynamicThreshold(let ratio, let maximum):
            #expect(properties.clamp == DS_CLAMP_THRESHOLD)
            #expect(properties.threshold_ratio == ratio && properties.threshold_maximum == maximum)
        }
        for index in 0..<plan.stepCount {
            for age in 0...plan.warmUp {
                var row = ds_row()
                try call(ds_scheduler_row(handle, index, age, &row))
                Self.compare(row, with: plan.row(at: index, age: age), clamp: plan.clamp)
                let reads = [row.reads.0, row.reads.1, row.reads.2, row.reads.3, row.reads.4, row.reads.5]
                #expect(Array(reads.prefix(row.n_reads)) == plan.reads(at: index, age: age))
            }
        }
    }

    static func compare(_ row: ds_row, with expected: PlanRow, clamp: PredictionClamp) {
        func expectEqual(_ a: ds_combination, _ b: Combination) {
            #expect(a.sample == b.sample && a.model_output == b.modelOutput && a.noise == b.noise && a.prediction == b.prediction)
            let slots = [a.slots.0, a.slots.1, a.slots.2, a.slots.3, a.slots.4, a.slots.5]
            #expect(slots == (0..<6).map { b[.slot($0)] })
        }
        expectEqual(row.prediction, expected.prediction)
        expectEqual(row.next_sample, expected.nextSample)
        #expect(row.n_stores == expected.stores.count && row.n_noise_draws == expected.drawCount)
        for (a, b) in zip([row.stores.0, row.stores.1], expected.stores) {
            #expect(a.slot == b.slot)
            expectEqual(a.value, b.value)
        }
        expectEqual(row.report, expected.report ?? (clamp == .none ? expected.prediction : Combination(prediction: 1)))
    }

    // MARK: Arguments of a run

    /// Every kind of arguments gives the plan that Swift gives.
    @Test func argumentsOfRuns() throws {
        let flow = #"""
            {"_class_name": "DEISMultistepScheduler", "use_flow_sigmas": true, "prediction_type": "flow_prediction",
             "use_dynamic_shifting": true}
            """#
        let clipped = #"{"_class_name": "DDIMScheduler", "clip_sample": true}"#
        let multistep = Self.configurations[1]
        let runs: [(json: String, count: Int, arguments: String?, plan: (any PlannedScheduler) throws -> SamplingPlan)] = [
            (multistep, 5, nil, { try $0.plan(.count(5)) }),
            (multistep, 5, "{}", { try $0.plan(.count(5)) }),
            (multistep, 5, #" {"timesteps": null, "sigmas" : null, "mu":null} "#, { try $0.plan(.count(5)) }),
            (multistep, 0, #"{"timesteps": [900, 500, 20]}"#, { try $0.plan(.timesteps([900, 500, 20])) }),
            (multistep, 3, #"{"timesteps": [900.0, 5e2, 20]}"#, { try $0.plan(.timesteps([900, 500, 20])) }),
            (multistep, 0, #"{"sigmas": [10, 2, 0.5]}"#, { try $0.plan(.sigmas([10, 2, 0.5])) }),
            (multistep, 3, #"{"sigmas": [10, 2, 0.5], "timesteps": null}"#, { try $0.plan(.sigmas([10, 2, 0.5])) }),
            (flow, 5, #"{"mu": 0.8}"#, { try $0.plan(.count(5, mu: 0.8)) }),
            (clipped, 5, #"{"eta": 1}"#, { try $0.plan(.count(5), optionValues: ["eta": 1]) }),
            (
                clipped, 5, #"{"use_clipped_model_output": true, "eta": 0.7}"#,
                { scheduler in
                    try #require(scheduler as? DDIMScheduler).plan(.count(5), eta: 0.7, useClippedModelOutput: true)
                }
            ),
            (
                clipped, 0, #"{"timesteps": [800, 3], "eta": 0.25}"#,
                { try $0.plan(.timesteps([800, 3]), optionValues: ["eta": 0.25]) }
            ),
        ]
        for (json, count, arguments, plan) in runs {
            let handle = try makeScheduler(json)
            defer { ds_scheduler_free(handle) }
            try call(ds_scheduler_set_timesteps(handle, count, arguments))
            try Self.compare(handle, with: plan(SchedulerCatalog.makeScheduler(json: json)))
        }
    }

    // MARK: Descriptions of classes

    /// The parameters are the keys of a configuration, with its default values.
    @Test(arguments: SchedulerCatalog.supportedClassNames) func classDescriptions(_ name: String) throws {
        func members(_ text: String) throws -> JSONValue { .object(try SchedulerCatalog.arguments(json: Array(text.utf8))) }
        func array(_ value: JSONValue?) throws -> [JSONValue] {
            guard case .array(let elements)? = value else { throw CallFailed(status: DS_OK, description: "no array") }
            return elements
        }
        func word(_ value: JSONValue?) throws -> String {
            guard case .string(let text)? = value, !text.isEmpty else { throw CallFailed(status: DS_OK, description: "no text") }
            return text
        }
        let description = try members(text { ds_class_description(name, $0, $1, $2) })
        #expect(description["class_name"] == .string(name))
        #expect(try !array(description["compatible_class_names"]).isEmpty)
        _ = try word(description["report"])

        let handle = try makeScheduler("{\"_class_name\": \"\(name)\"}")
        defer { ds_scheduler_free(handle) }
        let json = try text { ds_scheduler_config_json(handle, $0, $1, $2) }
        guard case .object(var configuration) = try members(json) else { return }
        configuration["_class_name"] = nil
        for parameter in try array(description["parameters"]) {
            let key = try word(parameter["key"]), value = try #require(parameter["default"])
            // A key that diffusers doesn't know is written only if it has a value.
            if parameter["override_name"] != nil, configuration[key] == nil { continue }
            #expect(configuration.removeValue(forKey: key) == value, "\(key)")
            _ = try word(parameter["type"])
            #expect(try word(parameter["summary"]).hasSuffix("."))
            if parameter["words"] != nil { #expect(try value == .null || array(parameter["words"]).contains(value)) }
        }
        #expect(configuration.isEmpty, "keys without a parameter, or twice: \(configuration.keys.sorted())")

        // The options are the arguments of set_timesteps.
        var options: [String: JSONValue] = [:]
        for option in try array(description["options"]) { options[try word(option["key"])] = option["default"] }
        try call(ds_scheduler_set_timesteps(handle, 4, JSONValue.object(options).text))
        try Self.compare(handle, with: SchedulerCatalog.makeScheduler(json: json).plan(.count(4)))
        // The description's other facts are checked against calls.
        var row = ds_row()
        let isTime = description["timestep_type"] == .string("float32")
        let status = ds_scheduler_row_at(handle, isTime ? 0.5 : 500, nil, &row)
        // Callers may keep the tensors that steps store.
        let isAlone = description["is_stateless"] == true || description["attributes"]?["timestep"] != .null
        #expect(status == (isAlone ? DS_OK : DS_UNSUPPORTED_OPERATION))
        if description["batch_step"] != .null {
            let option = try word(description["batch_step"]?["option"])
            #expect(options[option] == false)
            #expect(ds_scheduler_row_at(handle, 500, "{\"\(option)\": true}", &row) == DS_OK && row.n_noise_draws == 0)
        }
        var sample: [Float] = [1, 2]
        let velocity = withTensor(&sample) { ds_scheduler_get_velocity(handle, $0, $0, [500], 1, $0, 0) }
        #expect((velocity == DS_UNSUPPORTED_OPERATION) == (description["has_velocity"] != true))
    }

    @Test func descriptionsOfOtherClasses() {
        var length = -1
        #expect(ds_class_description("Nope", nil, 0, &length) == DS_UNSUPPORTED_SCHEDULER)
        #expect(ds_class_description("", nil, 0, &length) == DS_UNSUPPORTED_SCHEDULER)
        #expect(ds_class_description("\u{7F}", nil, 0, &length) == DS_UNSUPPORTED_SCHEDULER)
        #expect(ds_class_description(nil, nil, 0, &length) == DS_NULL_POINTER)
        #expect(ds_class_description("DDIMScheduler", nil, 0, nil) == DS_NULL_POINTER)
        #expect(length == -1)
        var buffer = [CChar](repeating: 7, count: 20)
        #expect(ds_class_description("DDIMScheduler", &buffer, 20, &length) == DS_BUFFER_TOO_SMALL)
        #expect(length > 1000 && buffer == [CChar](repeating: 7, count: 20))
    }

    @Test func otherClassesAndOverrides() throws {
        let json = #"""
            {"_class_name": "DDIMScheduler", "beta_end": 0.012, "steps_offset": 1, "clip_sample": false, "thresholding": true,
             "_use_default_values": ["thresholding", "timestep_spacing"], "timestep_spacing": "leading"}
            """#
        let handle = try makeScheduler(json, className: "DEISMultistepScheduler", overrides: #"{"solver_order": 3}"#)
        defer { ds_scheduler_free(handle) }
        let configuration = try DEISMultistepConfiguration(json: text { ds_scheduler_config_json(handle, $0, $1, $2) })
        #expect(configuration.betaEnd == 0.012 && configuration.stepsOffset == 1 && configuration.solverOrder == 3)
        // Values that nobody gave become this class's defaults, not the other class's.
        #expect(configuration.timestepSpacing == .linspace && !configuration.thresholding)
        #expect(try text { ds_scheduler_unused_keys(handle, $0, $1, $2) } == "[\n  \"clip_sample\"\n]")
        // The way back to the first class.
        let back = try makeScheduler(text { ds_scheduler_config_json(handle, $0, $1, $2) }, className: "DDIMScheduler")
        defer { ds_scheduler_free(back) }
        #expect(try !DDIMConfiguration(json: text { ds_scheduler_config_json(back, $0, $1, $2) }).clipSample)
    }

    @Test func classNames() {
        var names: [String] = []
        while let name = ds_supported_class_name(names.count) { names.append(String(cString: name)) }
        #expect(names == SchedulerCatalog.supportedClassNames)
    }

    @Test func samplerNames() throws {
        var names: [String] = []
        while let name = ds_sampler_name(names.count) { names.append(String(cString: name)) }
        #expect(names == SchedulerCatalog.samplerNames && names.contains("DPM++ 2M"))

        let model = try makeScheduler(#"{"_class_name": "EulerDiscreteScheduler", "beta_end": 0.012}"#)
        defer { ds_scheduler_free(model) }
        var handle = ds_scheduler()
        try call(ds_scheduler_create_named("DPM++ 2M Karras", model, #"{"steps_offset": 1}"#, &handle))
        defer { ds_scheduler_free(handle) }
        let configuration = try DPMSolverMultistepConfiguration(json: text { ds_scheduler_config_json(handle, $0, $1, $2) })
        #expect(configuration.betaEnd == 0.012 && configuration.stepsOffset == 1 && configuration.useKarrasSigmas)
        #expect(try text { ds_scheduler_sampler_names(handle, $0, $1, $2) }.contains("\"dpmpp_2m karras\""))
        #expect(try text { ds_scheduler_sampler_names(model, $0, $1, $2) }.contains("\"Euler\""))

        // A failed call makes no handle, and its message names the nearest class.
        var other = ds_scheduler()
        #expect(ds_scheduler_create_named("DPM fast", model, nil, &other) == DS_UNSUPPORTED_SCHEDULER)
        #expect(String(cString: ds_error_message()).contains("nearest is DPMSolverSinglestepScheduler"))
        #expect(ds_scheduler_create_named("LCM Karras", model, nil, &other) == DS_INVALID_VALUE)
        #expect(ds_scheduler_create_named(nil, model, nil, &other) == DS_NULL_POINTER)
        #expect(ds_scheduler_create_named("Euler", model, nil, nil) == DS_NULL_POINTER)
        #expect(ds_scheduler_create_named("Euler", model, "[", &other) == DS_MALFORMED_JSON)
        #expect(ds_scheduler_create_named("Euler", ds_scheduler(handle: 5), nil, &other) == DS_INVALID_HANDLE)
        #expect(ds_scheduler_create_named("\u{7F}", model, nil, &other) == DS_UNSUPPORTED_SCHEDULER)
        #expect(other.handle == 0)
    }

    @Test func files() throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString).path
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try DEISMultistepConfiguration().save(toDirectory: folder + "/scheduler")
        var handle = ds_scheduler()
        try call(ds_scheduler_load(folder, "scheduler", nil, nil, &handle))
        #expect(try text { ds_scheduler_class_name(handle, $0, $1, $2) } == "DEISMultistepScheduler")
        ds_scheduler_free(handle)
        try call(ds_scheduler_load(folder + "/scheduler", nil, "DDIMScheduler", nil, &handle))
        #expect(try text { ds_scheduler_class_name(handle, $0, $1, $2) } == "DDIMScheduler")
        ds_scheduler_free(handle)
    }

    // MARK: Sessions

    @Test(arguments: configurations) func sessions(_ json: String) throws {
        try Self.run(json, Float.self, Float.self)
        try Self.run(json, Double.self, Double.self)
        try Self.run(json, Float.self, BFloat16.self)
    }

    /// A run beside a Swift session, with copies, saved states and resets on the way.
    static func run<Element: TensorElement & BinaryFloatingPoint, Output: TensorElement>(
        _ json: String, _: Element.Type, _: Output.Type
    ) throws {
        let shape: [Int64] = [2, 5], count = 10
        func outputs(_ index: Int) -> [Output] {
            let values: [Float] = SessionStateTests.tensor(index, count: count)
            return values.map {
                Output.self == BFloat16.self
                    ? BFloat16($0) as! Output : Output.self == Float.self ? $0 as! Output : Double($0) as! Output
            }
        }
        let scheduler = try makeScheduler(json)
        defer { ds_scheduler_free(scheduler) }
        try call(ds_scheduler_set_timesteps(scheduler, 6, nil))
        let plan = try SessionStateTests.plan(json)
        for beginIndex in [0, 2] {
            var handle = ds_session(), other = ds_session()
            try call(ds_session_create(scheduler, beginIndex, &handle))
            var session = SamplingSession(plan: plan, beginIndex: beginIndex)
            var sample: [Element] = SessionStateTests.tensor(3, count: count), expected = sample
            // The first step is undone.
            var output = outputs(50), noise: [Element] = SessionStateTests.tensor(51, count: count), scratch = sample
            try withTensor(&output, shape: shape) { e in
                try withTensor(&scratch, shape: shape) { x in
                    try withTensor(&noise, shape: shape) { z in try call(ds_session_step(handle, e, x, z, x, nil, 0)) }
                }
            }
            try call(ds_session_reset(handle))
            while let timestep = session.timestep {
                let index = session.stepIndex
                var told = -1, toldTimestep = -1.0, needsNoise = false
                try call(ds_session_step_index(handle, &told))
                try call(ds_session_timestep(handle, &toldTimestep))
                try call(ds_session_needs_noise(handle, &needsNoise))
                #expect(told == index && toldTimestep == timestep)
                #expect(needsNoise == plan.needsNoise(at: index, age: session.age))

                var output = outputs(index)
                let noise: [Element] = SessionStateTests.tensor(100 + index, count: count)
                let empty = [Element](repeating: .nan, count: count)
                var tensors = [sample, noise, empty, empty]
                // The session goes through a copy and through bytes.
                try call(ds_session_copy(handle, &other))
                ds_session_free(handle)
                let saved = try bytes { ds_session_save(other, $0, $1, $2) }
                #expect(saved == session.savedState())
                ds_session_free(other)
                try call(ds_session_restore(scheduler, saved, saved.count, &handle))
                try withTensor(&output, shape: shape) { e in
                    try withTensors(&tensors, shape: shape) { t in
                        try call(ds_session_step(handle, e, t[0], needsNoise ? t[1] : nil, t[2], t[3], 0))
                    }
                }
                let next = tensors[2], clean = tensors[3]
                if let output = output as? [Element] {
                    var session = session
                    let result = try session.step(
                        modelOutput: output, sample: expected, noise: noise, batchSize: 2, predictingOriginalSample: true)
                    #expect(clean == result.predOriginalSample)
                }
                var span = expected.mutableSpan
                try session.step(modelOutput: output.span, sample: &span, noise: noise.span, batchSize: 2)
                #expect(next == expected)
                sample = next
            }
            var timestep = 0.0
            #expect(ds_session_timestep(handle, &timestep) == DS_STEP_PAST_END)
            ds_session_free(handle)
        }
    }

    /// Learned variances are skipped, item by item.
    @Test func learnedVariances() throws {
        let json = #"{"_class_name": "DPMSolverMultistepScheduler", "variance_type": "learned_range"}"#
        let scheduler = try makeScheduler(json)
        defer { ds_scheduler_free(scheduler) }
        try call(ds_scheduler_set_timesteps(scheduler, 4, nil))
        var handle = ds_session(), session = SamplingSession(plan: try SessionStateTests.plan(json, steps: 4))
        try call(ds_session_create(scheduler, 0, &handle))
        defer { ds_session_free(handle) }
        var output = Self.tensor(1, count: 48), sample = Self.tensor(2, count: 24), next = sample
        try withTensor(&output, shape: [2, 6, 4]) { e in
            try withTensor(&sample, shape: [2, 3, 4]) { x in
                try withTensor(&next, shape: [2, 3, 4]) { out in
                    try call(ds_session_step(handle, e, x, nil, out, nil, 0))
                }
            }
        }
        #expect(try session.step(modelOutput: output, sample: sample, batchSize: 2).nextSample == next)
    }

    /// UniPC stores two slots, so its input takes a pass of its own.
    @Test(arguments: ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler"])
    func stepsWriteTheNextModelInput(_ className: String) throws {
        let json = #"{"_class_name": "\#(className)"}"#, count = 24, shape: [Int64] = [2, 3, 4]
        let scheduler = try makeScheduler(json)
        defer { ds_scheduler_free(scheduler) }
        try call(ds_scheduler_set_timesteps(scheduler, 4, nil))
        let plan = try SessionStateTests.plan(json, steps: 4)
        var handle = ds_session(), session = SamplingSession(plan: plan)
        try call(ds_session_create(scheduler, 0, &handle))
        defer { ds_session_free(handle) }
        var sample = Self.tensor(1, count: count), expected = sample
        let empty = [Float](repeating: .nan, count: count)
        while session.timestep != nil {
            let output = Self.tensor(10 + session.stepIndex, count: count)
            var tensors = [output, sample, empty, empty]
            try withTensors(&tensors, shape: shape) { t in
                try call(ds_session_step_with_input(handle, t[0], t[1], nil, t[1], t[2], t[3], 0))
            }
            sample = tensors[1]
            let input = tensors[3]
            try session.step(modelOutput: output, sample: &expected, batchSize: 2)
            #expect(sample == expected)
            let scale = session.timestep == nil ? 1 : plan.inputScales[session.stepIndex]
            // The expected input is scaled before it is rounded; the sample was rounded before.
            for (u, x) in zip(input, expected) { #expect(abs(Double(u) - scale * Double(x)) <= 0x1p-23 * abs(scale * Double(x))) }
        }
    }

    @Test(arguments: [configurations[1], configurations[2], configurations[3]]) func partsOfSteps(_ json: String) throws {
        let handle = try makeScheduler(json)
        defer { ds_scheduler_free(handle) }
        try call(ds_scheduler_set_timesteps(handle, 6, nil))
        guard var scheduler = try SchedulerCatalog.makeScheduler(json: json) as? any MultistepScheduler else {
            Issue.record("no multistep scheduler")
            return
        }
        try scheduler.setTimesteps(6)
        try scheduler.setBeginIndex(3)
        var row = ds_row()
        var sample = Self.tensor(1, count: 8), out = sample
        let noise = Self.tensor(9, count: 8)
        var outputs = (2...4).map { Self.tensor($0, count: 8) }
        let converted = try scheduler.convertModelOutput(outputs[0], sample: sample, batchSize: 2)
        try call(ds_scheduler_part_row(handle, 3, 0, &row))
        try withTensor(&outputs[0], shape: [2, 4]) { e in
            try withTensor(&sample, shape: [2, 4]) { x in
                try withTensor(&out, shape: [2, 4]) {
                    try call(rowStep(handle, &row, e, x, nil, nil, 0, nil, $0, nil, 0))
                }
            }
        }
        #expect(out == converted)
        let expected = try [
            scheduler.firstOrderUpdate(modelOutput: outputs[2], sample: sample, noise: noise),
            scheduler.secondOrderUpdate(modelOutputs: Array(outputs[1...]), sample: sample, noise: noise),
            scheduler.thirdOrderUpdate(modelOutputs: outputs, sample: sample, noise: noise),
        ]
        for order in 1...3 {
            try call(ds_scheduler_part_row(handle, 3, UInt32(order), &row))
            var tensors = [sample, noise, out] + outputs.reversed()
            try withTensors(&tensors, shape: [8]) { t in
                let older = t[4...].map(\.pointee)
                try call(rowStep(handle, &row, t[3], t[0], t[1], older, order - 1, nil, t[2], nil, 0))
            }
            #expect(tensors[2] == expected[order - 1], "order \(order)")
        }
    }

    // MARK: Beside steps

    @Test func noiseAndVelocity() throws {
        for (json, steps, timesteps) in [
            (Self.configurations[1], nil, [999, 3.5]), (Self.configurations[1], 4, [999, 500]),
            (Self.configurations[5], 4, [600, 1]),
        ] as [(String, Int?, [Double])] {
            let handle = try makeScheduler(json)
            defer { ds_scheduler_free(handle) }
            var scheduler = try SchedulerCatalog.makeScheduler(json: json)
            if let steps {
                try call(ds_scheduler_set_timesteps(handle, steps, nil))
                try scheduler.setTimesteps(steps)
            }
            let sample = Self.tensor(1, count: 6), noise = Self.tensor(2, count: 6)
            var tensors = [sample, noise, sample]
            for timesteps in [timesteps, [timesteps[0]]] {
                try withTensors(&tensors, shape: [2, 3]) { t in
                    try call(ds_scheduler_add_noise(handle, t[0], t[1], timesteps, timesteps.count, t[2], 0))
                }
                #expect(try scheduler.addNoise(noise, to: sample, timesteps: timesteps) == tensors[2])
                guard let ddim = scheduler as? DDIMScheduler else { continue }
                try withTensors(&tensors, shape: [2, 3]) { t in
                    try call(ds_scheduler_get_velocity(handle, t[0], t[1], timesteps, timesteps.count, t[2], 0))
                }
                #expect(try ddim.getVelocity(sample: sample, noise: noise, timesteps: timesteps) == tensors[2])
            }
            try withTensors(&tensors, shape: [2, 3]) { t in
                try call(ds_combine_noise(t[0], t[1], [0.5, 0.25], [2, 4], 2, t[2], 0))
            }
            let combined = zip(sample, noise).enumerated().map { index, pair -> Float in
                index < 3 ? 0.5 * pair.0 + 2 * pair.1 : 0.25 * pair.0 + 4 * pair.1
            }
            #expect(tensors[2] == combined)
            try withTensors(&tensors, shape: [6]) { t in
                try call(ds_scheduler_scale_model_input(handle, t[0], 500, t[2], 0))
                try call(ds_scheduler_scale_model_input(handle, t[0], 500, t[0], 0))
            }
            #expect(tensors[2] == tensors[0])
        }
    }

    /// Rows of training timesteps, in and out of the plan, and their steps match Swift's.
    @Test func rowsOfTrainingTimesteps() throws {
        for json in [
            #"{"_class_name": "DDIMScheduler"}"#,
            #"{"_class_name": "DDIMScheduler", "clip_sample": false, "thresholding": true, "sample_max_value": 1.5}"#,
            #"{"_class_name": "DDIMScheduler", "clip_sample": false, "prediction_type": "v_prediction"}"#,
            #"{"_class_name": "DDIMInverseScheduler"}"#,
        ] {
            try Self.compareSteps(json, Float.self)
            try Self.compareSteps(json, Double.self)
        }
    }

    static func compareSteps<Element: TensorElement & BinaryFloatingPoint>(_ json: String, _: Element.Type) throws {
        let handle = try makeScheduler(json)
        defer { ds_scheduler_free(handle) }
        try call(ds_scheduler_set_timesteps(handle, 10, nil))
        var scheduler = try SchedulerCatalog.makeScheduler(json: json)
        try scheduler.setTimesteps(10)
        let clamp = try #require(scheduler.plan).clamp
        let arguments: [String?] =
            scheduler is DDIMScheduler ? [nil, #"{"eta": 1}"#, #"{"eta": 0.6, "use_clipped_model_output": true}"#] : [nil]
        // T/n is 100: below timestep 37 there is only the clean sample.
        for timestep in [407.0, 37, 0, 999, 600] {
            for arguments in arguments {
                let options = try arguments.map { try SchedulerCatalog.arguments(json: Array($0.utf8)) } ?? [:]
                var row = ds_row()
                try call(ds_scheduler_row_at(handle, timestep, arguments, &row))
                Self.compare(row, with: try scheduler.row(at: timestep, optionValues: options), clamp: clamp)
                #expect(row.n_reads == 0 && row.n_stores == 0)

                let output: [Element] = SessionStateTests.tensor(1, count: 6)
                let sample: [Element] = SessionStateTests.tensor(2, count: 6)
                let noise: [Element] = SessionStateTests.tensor(3, count: 6)
                var tensors = [output, sample, noise, sample, sample]
                let expected: SchedulerOutput<Element> =
                    if let ddim = scheduler as? DDIMScheduler {
                        try ddim.step(
                            modelOutput: output, timestep: timestep, sample: sample, options: .init(values: options), noise: noise,
                            batchSize: 2)
                    } else {
                        try #require(scheduler as? DDIMInverseScheduler).step(
                            modelOutput: output, timestep: timestep, sample: sample, batchSize: 2)
                    }
                try withTensors(&tensors, shape: [2, 3]) { t in
                    let noise = arguments == nil ? nil : t[2]
                    try call(rowStep(handle, &row, t[0], t[1], noise, nil, 0, nil, t[3], t[4], 0))
                }
                #expect(tensors[3] == expected.nextSample && tensors[4] == expected.predOriginalSample, "\(timestep)")
            }
        }
    }

    @Test func guidance() throws {
        var guided = Self.tensor(1, count: 12) + [2, 2, 2, 2, 2, 2], conditional = Self.tensor(5, count: 18), out = guided
        var expected = guided
        try Guidance(scale: 1, rescale: 0.7).rescale(&expected, conditional: conditional, batchSize: 3)
        try withTensor(&guided, shape: [3, 6]) { g in
            try withTensor(&conditional, shape: [3, 6]) { c in
                try withTensor(&out, shape: [3, 6]) { try call(ds_rescale_noise_cfg(g, c, 0.7, $0, 0)) }
                try call(ds_rescale_noise_cfg(g, c, 0.7, g, 0))
            }
        }
        #expect(out == expected && guided == expected)
    }

    // MARK: Noise

    @Test func noiseSources() throws {
        var torch: any NormalSource = TorchCPUNoise(seed: 7),
            cuda: any NormalSource = TorchCUDANoise(seed: 7, offset: 8, device: .h100)
        var numPy: any NormalSource = NumPyNoise(seed: 7)
        var handles = [ds_noise](repeating: ds_noise(), count: 3)
        try call(ds_noise_create(DS_NOISE_TORCH_CPU, 7, &handles[0]))
        try call(ds_noise_create_torch_cuda(7, 8, 132, 2048, &handles[1]))
        try call(ds_noise_create(DS_NOISE_NUMPY, 7, &handles[2]))
        for count in [3, 16, 37, 0, 5] {
            for (index, expected) in [torch.normals(count), cuda.normals(count), numPy.normals(count)].enumerated() {
                var out = [Float](repeating: .nan, count: count), other = out, copy = ds_noise()
                // The source goes through a copy and through bytes.
                try call(ds_noise_copy(handles[index], &copy))
                let saved = try bytes { ds_noise_save(copy, $0, $1, $2) }
                #expect(saved.count < 3000)
                try withTensor(&other) { try call(ds_noise_fill(handles[index], $0, 0)) }
                ds_noise_free(handles[index])
                try call(ds_noise_restore(saved, saved.count, &handles[index]))
                try withTensor(&out) { try call(ds_noise_fill(handles[index], $0, 0)) }
                #expect(out == expected && other == expected)
                ds_noise_free(copy)
            }
        }
        var doubles = TorchCPUNoise(seed: 9), out = [Double](repeating: 0, count: 20), handle = ds_noise()
        try call(ds_noise_create(DS_NOISE_TORCH_CPU, 9, &handle))
        try withTensor(&out) { try call(ds_noise_fill(handle, $0, 0)) }
        #expect(out == doubles.doubleNormals(20))
        for handle in handles + [handle] { ds_noise_free(handle) }
    }

    // MARK: Handles

    /// More handles than a block has slots; every handle is different, even after its slot was used before.
    @Test func manyHandles() throws {
        var seen: Set<UInt64> = []
        for _ in 0..<2 {
            var handles: [ds_noise] = []
            for seed in 0..<3000 {
                var handle = ds_noise()
                try call(ds_noise_create_torch_cuda(UInt64(seed), 0, 108, 2048, &handle))
                handles.append(handle)
                #expect(seen.insert(handle.handle).inserted)
            }
            for handle in handles { try call(ds_noise_free(handle)) }
            for handle in handles { #expect(ds_noise_free(handle) == DS_INVALID_HANDLE) }
        }
    }
}

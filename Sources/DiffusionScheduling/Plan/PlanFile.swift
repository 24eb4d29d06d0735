// SPDX-License-Identifier: Apache-2.0

// The coded form of a plan, for engines whose tensors live elsewhere: docs/PLAN.md describes it.

extension SamplingPlan {
    /// The version of the coded form; readers refuse others.
    private static let codedVersion = 1

    /// The whole plan, all rows of coefficients included.
    public var json: JSONValue {
        var members: [String: JSONValue] = [
            "version": JSONValue(Self.codedVersion), "process": .string(grid.process.rawValue),
            "init_noise_sigma": JSONValue(initNoiseSigma), "model_learns_variance": .bool(modelLearnsVariance), "clamp": clamp.json,
            "slots": JSONValue(slotCount), "warm_up": JSONValue(warmUp), "report": .string(reportName),
            "sigmas": JSONValue(grid.sigmas),
            "evaluations": .array(
                (0..<stepCount).map { index in
                    var evaluation: [String: JSONValue] = [
                        "step": JSONValue(steps[index]), "timestep": JSONValue(timesteps[index]),
                        "input_scale": JSONValue(inputScales[index]),
                        "rows": .array((0...min(index, warmUp)).map { row(at: index, age: $0).json }),
                    ]
                    if !outputWeights.isEmpty { evaluation["output_weights"] = JSONValue(outputWeights[index]) }
                    return .object(evaluation)
                }),
        ]
        members["end_timestep"] = grid.end.map { JSONValue($0) }
        return .object(members)
    }

    /// Reads a plan. All members must be present, except those that docs/PLAN.md calls optional; unknown members are ignored.
    ///
    /// - Throws: `invalidValue` with the path of a member that is missing, of another kind or out of range; `unrepresentablePlan`.
    public init(json: JSONValue) throws(SchedulerError) {
        let plan = PlanMember(json, path: "plan")
        let version = try plan.member("version").integer()
        try require("plan.version", version, "\(Self.codedVersion)", version == Self.codedVersion)
        let processMember = try plan.member("process"), processName = try processMember.text()
        guard let process = NoiseProcess(rawValue: processName) else {
            throw processMember.refused(NoiseProcess.allCases.map(\.rawValue).joined(separator: ", "))
        }
        var timesteps: [Double] = [], inputScales: [Double] = [], steps: [Int] = [], rows: [[PlanRow]] = []
        var outputWeights: [[Double]] = []
        for evaluation in try plan.member("evaluations").elements(atMost: TimestepRequest.maximumSteps) {
            timesteps.append(try evaluation.member("timestep").number())
            inputScales.append(try evaluation.member("input_scale").number())
            steps.append(try evaluation.member("step").integer())
            if let weights = evaluation.optionalMember("output_weights") {
                outputWeights.append(try weights.numbers(atMost: Self.maximumOutputs))
            }
            var choices: [PlanRow] = []
            for choice in try evaluation.member("rows").elements(atMost: Self.maximumWarmUp + 1) {
                choices.append(try PlanRow(choice))
            }
            rows.append(choices)
        }
        try self.init(
            grid: TimestepGrid(
                timesteps: timesteps, exactSigmas: plan.member("sigmas").numbers(atMost: TimestepRequest.maximumSteps + 1),
                process: process, end: plan.optionalMember("end_timestep")?.number()),
            initNoiseSigma: plan.member("init_noise_sigma").number(), inputScales: inputScales,
            outputWeights: outputWeights, clamp: PredictionClamp(plan.member("clamp")), slotCount: plan.member("slots").integer(),
            warmUp: plan.member("warm_up").integer(), steps: steps, reportName: plan.member("report").text(),
            modelLearnsVariance: plan.member("model_learns_variance").bool(), rows: rows)
    }

    /// The text of a coded plan.
    ///
    /// - Throws: `malformedJSON`, and as `init(json:)`.
    public init(jsonText: String) throws(SchedulerError) {
        try self.init(jsonBytes: Array(jsonText.utf8))
    }

    package init(jsonBytes: [UInt8]) throws(SchedulerError) { try self.init(json: JSONReader.read(jsonBytes)) }
}

extension SamplingPlan: Codable {
    /// Reads a plan from a decoder, in the form of ``json``.
    ///
    /// - Throws: the decoder's errors, and as `init(json:)`.
    public init(from decoder: any Decoder) throws { try self.init(json: JSONValue(from: decoder)) }

    /// Writes ``json`` to an encoder.
    ///
    /// - Throws: the encoder's errors.
    public func encode(to encoder: any Encoder) throws { try json.encode(to: encoder) }
}

extension PredictionClamp {
    fileprivate var json: JSONValue {
        switch self {
        case .none: ["none": [:]]
        case .range(let limit): ["range": ["limit": JSONValue(limit)]]
        case .dynamicThreshold(let ratio, let maximum):
            ["dynamic_threshold": ["ratio": JSONValue(ratio), "maximum": JSONValue(maximum)]]
        }
    }

    fileprivate init(_ clamp: PlanMember) throws(SchedulerError) {
        if let range = clamp.optionalMember("range") {
            self = .range(try range.member("limit").number())
        } else if let threshold = clamp.optionalMember("dynamic_threshold") {
            self = .dynamicThreshold(
                ratio: try threshold.member("ratio").number(), maximum: try threshold.member("maximum").number())
        } else {
            _ = try clamp.member("none")
            self = .none
        }
    }
}

extension PlanRow {
    fileprivate var json: JSONValue {
        var members = ["prediction": prediction.json, "next_sample": nextSample.json]
        if !stores.isEmpty {
            members["stores"] = .object(Dictionary(uniqueKeysWithValues: stores.map { (Stream.slot($0.slot).name, $0.value.json) }))
        }
        members["report"] = report?.json
        if drawCount > 0 { members["noise_draws"] = JSONValue(drawCount) }
        members["noise_factor"] = noiseFactor.json
        return .object(members)
    }

    fileprivate init(_ row: PlanMember) throws(SchedulerError) {
        var stores: [Store] = []
        for (stream, member) in try row.optionalMember("stores")?.streams() ?? [] {
            guard case .slot(let slot) = stream else { throw member.refused("a member of a slot: slot_0 to slot_5") }
            stores.append(Store(slot: slot, value: try Combination(member)))
        }
        let report = try row.optionalMember("report").map { (member) throws(SchedulerError) in try Combination(member) }
        try self.init(
            prediction: Combination(row.member("prediction")), nextSample: Combination(row.member("next_sample")), stores: stores,
            report: report, drawCount: row.optionalMember("noise_draws")?.integer(),
            noiseFactor: NoiseFactor(row.optionalMember("noise_factor")))
    }
}

extension NoiseFactor {
    fileprivate var json: JSONValue? {
        switch self {
        case .none: nil
        case .root: ["root": [:]]
        case .exponential(let offset, let slope):
            ["exponential": ["offset": JSONValue(offset), "slope": JSONValue(slope)]]
        }
    }

    fileprivate init(_ factor: PlanMember?) throws(SchedulerError) {
        guard let factor else {
            self = .none
            return
        }
        if let exponential = factor.optionalMember("exponential") {
            self = .exponential(offset: try exponential.member("offset").number(), slope: try exponential.member("slope").number())
        } else {
            _ = try factor.member("root")
            self = .root
        }
    }
}

extension Combination {
    fileprivate var json: JSONValue {
        .object(Dictionary(uniqueKeysWithValues: terms.map { ($0.stream.name, JSONValue($0.coefficient)) }))
    }

    fileprivate init(_ combination: PlanMember) throws(SchedulerError) {
        self.init()
        for (stream, member) in try combination.streams() { self[stream] = try member.number() }
    }
}

extension Stream {
    /// The name in a coded plan.
    fileprivate var name: String {
        switch self {
        case .sample: "sample"
        case .modelOutput: "model_output"
        case .noise: "noise"
        case .prediction: "prediction"
        case .slot(let slot): "slot_\(slot)"
        }
    }

    fileprivate static let named: [String: Stream] = Dictionary(
        uniqueKeysWithValues: ([.sample, .modelOutput, .noise, .prediction] + (0..<Combination.maximumSlotCount).map { .slot($0) })
            .map {
                ($0.name, $0)
            })
}

extension JSONValue {
    fileprivate init(_ numbers: [Double]) { self = .array(numbers.map { JSONValue($0) }) }
}

/// A part of a coded plan, and its path for the messages.
private struct PlanMember {
    private let value: JSONValue
    private let path: String

    init(_ value: JSONValue, path: String) {
        self.value = value
        self.path = path
    }

    func refused(_ allowed: String) -> SchedulerError {
        let kind =
            switch value {
            case .null: "null"
            case .bool(let value): "\(value)"
            case .number(let literal): literal
            case .string: "a string"
            case .array(let elements): "an array of \(elements.count)"
            case .object: "an object"
            }
        return .invalidValue(key: path, value: kind, allowed: allowed)
    }

    /// The members of an object of streams, slots by their numbers.
    func streams() throws(SchedulerError) -> [(Stream, PlanMember)] {
        guard case .object(let members) = value else { throw refused("an object") }
        var streams: [(Stream, PlanMember)] = []
        for (name, value) in members.sorted(by: { $0.key < $1.key }) {
            guard let stream = Stream.named[name] else {
                throw .invalidValue(
                    key: "\(path).\(name.quoted)", value: "given",
                    allowed: "one of \(Stream.named.keys.sorted().joined(separator: ", "))")
            }
            streams.append((stream, PlanMember(value, path: "\(path).\(name)")))
        }
        return streams
    }

    func text() throws(SchedulerError) -> String {
        guard case .string(let text) = value else { throw refused("a string") }
        return text
    }

    func optionalMember(_ key: String) -> PlanMember? {
        guard let member = value[key], member != .null else { return nil }
        return PlanMember(member, path: "\(path).\(key)")
    }

    func member(_ key: String) throws(SchedulerError) -> PlanMember {
        guard let member = optionalMember(key) else {
            throw .invalidValue(key: "\(path).\(key)", value: "missing", allowed: "present")
        }
        return member
    }

    func elements(atMost limit: Int) throws(SchedulerError) -> [PlanMember] {
        guard case .array(let elements) = value, elements.count <= limit else { throw refused("an array of at most \(limit)") }
        return elements.enumerated().map { PlanMember($1, path: "\(path)[\($0)]") }
    }

    func number() throws(SchedulerError) -> Double {
        guard case .number(let literal) = value, let number = Double(literal) else { throw refused("a number") }
        return number
    }

    func numbers(atMost limit: Int) throws(SchedulerError) -> [Double] {
        var numbers: [Double] = []
        for element in try elements(atMost: limit) { numbers.append(try element.number()) }
        return numbers
    }

    func integer() throws(SchedulerError) -> Int {
        guard case .number(let literal) = value, let number = Int(literal) else { throw refused("a whole number") }
        return number
    }

    func bool() throws(SchedulerError) -> Bool {
        guard case .bool(let bool) = value else { throw refused("true or false") }
        return bool
    }
}

// SPDX-License-Identifier: Apache-2.0

// The coded form of a plan, for engines whose tensors live elsewhere: docs/PLAN.md describes it.

extension SamplingPlan {
    /// The version of the coded form; readers refuse others.
    private static let codedVersion = 1

    /// The whole plan, all rows of coefficients included.
    public var json: JSONValue {
        [
            "version": JSONValue(Self.codedVersion), "historyLength": JSONValue(historyLength),
            "initNoiseSigma": JSONValue(initNoiseSigma), "modelLearnsVariance": .bool(modelLearnsVariance), "clamp": clamp.json,
            "grid": [
                "timesteps": JSONValue(grid.timesteps), "sigmas": JSONValue(grid.sigmas), "isFlow": .bool(grid.isFlow),
            ],
            "rows": .array(
                (0..<stepCount).map { index in
                    .array((0...min(index, historyLength)).map { coefficients(at: index, remembered: $0).json })
                }),
        ]
    }

    /// Reads a plan; every member has to be there, others are passed over.
    ///
    /// - Throws: `invalidValue` with the path of the member that is missing, of another kind or out of range;
    ///   `unrepresentablePlan`.
    public init(json: JSONValue) throws(SchedulerError) {
        let plan = PlanMember(json, path: "plan")
        let version = try plan.member("version").integer()
        try require("plan.version", version, "\(Self.codedVersion)", version == Self.codedVersion)
        let grid = try plan.member("grid")
        let timesteps = try grid.member("timesteps").numbers(atMost: TimestepRequest.maximumSteps)
        var rows: [[StepCoefficients]] = []
        for row in try plan.member("rows").elements(atMost: TimestepRequest.maximumSteps) {
            var choices: [StepCoefficients] = []
            for choice in try row.elements(atMost: KernelRows.maximumHistory + 1) {
                choices.append(try StepCoefficients(choice))
            }
            rows.append(choices)
        }
        try self.init(
            grid: TimestepGrid(
                timesteps: timesteps, exactSigmas: grid.member("sigmas").numbers(atMost: TimestepRequest.maximumSteps + 1),
                isFlow: grid.member("isFlow").bool()),
            initNoiseSigma: plan.member("initNoiseSigma").number(), clamp: PredictionClamp(plan.member("clamp")),
            historyLength: plan.member("historyLength").integer(), modelLearnsVariance: plan.member("modelLearnsVariance").bool(),
            rows: rows)
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
    public init(from decoder: any Decoder) throws { try self.init(json: JSONValue(from: decoder)) }

    public func encode(to encoder: any Encoder) throws { try json.encode(to: encoder) }
}

extension PredictionClamp {
    fileprivate var json: JSONValue {
        switch self {
        case .none: ["none": [:]]
        case .range(let limit): ["range": ["limit": JSONValue(limit)]]
        case .dynamicThreshold(let ratio, let maximum):
            ["dynamicThreshold": ["ratio": JSONValue(ratio), "maximum": JSONValue(maximum)]]
        }
    }

    fileprivate init(_ clamp: PlanMember) throws(SchedulerError) {
        if let range = clamp.optionalMember("range") {
            self = .range(try range.member("limit").number())
        } else if let threshold = clamp.optionalMember("dynamicThreshold") {
            self = .dynamicThreshold(
                ratio: try threshold.member("ratio").number(), maximum: try threshold.member("maximum").number())
        } else {
            _ = try clamp.member("none")
            self = .none
        }
    }
}

extension StepCoefficients {
    fileprivate var json: JSONValue {
        var members = ["prediction": prediction.json, "nextSample": nextSample.json]
        members["history"] = history?.json
        return .object(members)
    }

    fileprivate init(_ row: PlanMember) throws(SchedulerError) {
        prediction = try LinearCombination(row.member("prediction"))
        nextSample = try LinearCombination(row.member("nextSample"))
        if let history = row.optionalMember("history") { self.history = try LinearCombination(history) }
    }
}

extension LinearCombination {
    fileprivate var json: JSONValue {
        [
            "sample": JSONValue(sample), "modelOutput": JSONValue(modelOutput), "noise": JSONValue(noise),
            "prediction": JSONValue(prediction), "history": JSONValue(history),
        ]
    }

    fileprivate init(_ combination: PlanMember) throws(SchedulerError) {
        try self.init(
            sample: combination.member("sample").number(), modelOutput: combination.member("modelOutput").number(),
            noise: combination.member("noise").number(), prediction: combination.member("prediction").number(),
            history: combination.member("history").numbers(atMost: KernelRows.maximumHistory))
    }
}

extension JSONValue {
    fileprivate init(_ numbers: [Double]) { self = .array(numbers.map { JSONValue($0) }) }
}

/// A part of a coded plan and where it is, for the messages.
private struct PlanMember {
    private let value: JSONValue
    private let path: String

    init(_ value: JSONValue, path: String) {
        self.value = value
        self.path = path
    }

    private func refused(_ allowed: String) -> SchedulerError {
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

// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// Invalid coded plans and their messages.
@Suite struct PlanFileTests {
    /// A part of a coded plan: its path as errors name it, and functions that replace or remove it.
    struct Part {
        let path: String
        let value: JSONValue
        let replace: (JSONValue?) -> JSONValue
    }

    /// Every part of a value, including parts of parts.
    static func parts(_ value: JSONValue, path: String, replace: @escaping (JSONValue?) -> JSONValue) -> [Part] {
        var parts: [Part] = []
        func add(_ value: JSONValue, _ path: String, _ replace: @escaping (JSONValue?) -> JSONValue) {
            parts.append(Part(path: path, value: value, replace: replace))
            parts += Self.parts(value, path: path, replace: replace)
        }
        switch value {
        case .object(let members):
            for (key, member) in members.sorted(by: { $0.key < $1.key }) {
                add(member, "\(path).\(key)") { new in
                    var changed = members
                    changed[key] = new
                    return replace(.object(changed))
                }
            }
        case .array(let elements):
            for (index, element) in elements.enumerated() {
                add(element, "\(path)[\(index)]") { new in
                    var changed = elements
                    if let new { changed[index] = new } else { changed.remove(at: index) }
                    return replace(.array(changed))
                }
            }
        default: break
        }
        return parts
    }

    private static let configurations = [
        #"{"_class_name": "DEISMultistepScheduler", "solver_order": 3}"#,
        #"{"_class_name": "DDIMScheduler", "clip_sample": true}"#,
        #"{"_class_name": "DPMSolverMultistepScheduler", "thresholding": true}"#,
    ]

    private static func plan(_ configuration: String) throws -> SamplingPlan {
        var scheduler = try SchedulerCatalog.makeScheduler(json: configuration)
        try scheduler.setTimesteps(4)
        return try #require(scheduler.plan)
    }

    private func refusal(_ json: JSONValue) -> SchedulerError? {
        do throws(SchedulerError) {
            _ = try SamplingPlan(json: json)
            return nil
        } catch {
            return error
        }
    }

    @Test(arguments: configurations) func partsOfAnotherKind(configuration: String) throws {
        let json = try Self.plan(configuration).json
        #expect(refusal(json) == nil)
        let parts = Self.parts(json, path: "plan") { $0 ?? .null }
        #expect(parts.count > 60)
        for part in parts where part.path != "plan.clamp.none" && part.path != "plan.report" {
            // The process is the only other text.
            guard case .invalidValue(let key, let value, let allowed)? = refusal(part.replace("many")) else {
                Issue.record("\(part.path) may be a text")
                continue
            }
            switch part.value {
            case .object:
                let isMissing = key.hasPrefix(part.path + ".") && value == "missing" && allowed == "present"
                #expect(isMissing || (key == part.path && value == "a string"), "\(part.path): \(key)")
            default: #expect(key == part.path && value == "a string", "\(part.path): \(key), \(value)")
            }
        }
    }

    @Test(arguments: configurations) func missingMembers(configuration: String) throws {
        let json = try Self.plan(configuration).json
        for part in Self.parts(json, path: "plan", replace: { $0 ?? .null }) where !part.path.hasSuffix("]") {
            // Sums list only their terms, and a store may be missing if nothing reads it.
            let isOptional = [".prediction.", ".next_sample.", ".stores"].contains { part.path.contains($0) }
            if isOptional || part.path.hasSuffix(".noise_draws") { continue }
            guard case .invalidValue(let key, "missing", "present")? = refusal(part.replace(nil)) else {
                Issue.record("\(part.path) may be missing: \(String(describing: refusal(part.replace(nil))))")
                continue
            }
            // A clamp must have one of its kinds; the error asks for the last one.
            let isClamp = part.path.hasPrefix("plan.clamp.") && part.path.split(separator: ".").count == 3
            #expect(key == (isClamp ? "plan.clamp.none" : part.path))
        }
    }

    @Test func whatIsThereIsSaid() throws {
        let json = try Self.plan(Self.configurations[0]).json
        let parts = Self.parts(json, path: "plan") { $0 ?? .null }
        let cases: [(path: String, value: JSONValue, text: String, allowed: String)] = [
            ("plan.slots", true, "true", "a whole number"), ("plan.slots", 1.5, "1.5", "a whole number"),
            ("plan.slots", [1, 2], "an array of 2", "a whole number"),
            ("plan.init_noise_sigma", [:], "an object", "a number"),
            ("plan.model_learns_variance", 1, "1", "true or false"), ("plan.version", 2, "2", "1"),
            ("plan.process", "backwards", "a string", "variance_preserving, variance_exploding, flow"),
            ("plan.evaluations[1].timestep", nil, "missing", "present"),
            ("plan.report", 1, "1", "a string"),
        ]
        for (path, value, text, allowed) in cases {
            let part = try #require(parts.first { $0.path == path })
            #expect(refusal(part.replace(value)) == .invalidValue(key: path, value: text, allowed: allowed))
        }
    }
}

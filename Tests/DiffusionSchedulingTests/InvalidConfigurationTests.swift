// SPDX-License-Identifier: Apache-2.0

import TestDraws
import Testing

@testable import DiffusionScheduling

/// Random configurations with one invalid key: each is refused with an error that names the key.
@Suite struct RandomInvalidConfigurationTests {
    @Test func deis() throws { try areRefused("DEIS", RandomConfigurations.deis) }
    @Test func dpmSolver() throws { try areRefused("DPM-Solver", RandomConfigurations.dpmSolver) }
    @Test func dpmSolverInverse() throws { try areRefused("DPM-Solver inverse", RandomConfigurations.dpmSolverInverse) }
    @Test func dpmSolverSinglestep() throws {
        try areRefused("DPM-Solver singlestep", RandomConfigurations.dpmSolverSinglestep)
    }
    @Test func saSolver() throws { try areRefused("SA-Solver", RandomConfigurations.saSolver) }
    @Test func ddim() throws { try areRefused("DDIM", RandomConfigurations.ddim) }
    @Test func ddimInverse() throws { try areRefused("DDIM inverse", RandomConfigurations.ddimInverse) }

    private func areRefused<C: SchedulerConfiguration>(_ name: String, _ draw: (inout SeededGenerator) -> C) throws {
        var generator = SeededGenerator("invalid \(name)"), keys: Set<String> = []
        for _ in 0..<TestDraws.count(300) {
            var values = try JSONReader.read(Array(draw(&generator).jsonText.utf8)).members()
            let parameter = C.parameters.randomElement(using: &generator)!
            // The list of betas replaces this key, which isn't read then.
            if parameter.key == "beta_start" || parameter.key == "beta_end" { values["trained_betas"] = nil }
            let value = Self.invalidValue(of: parameter, &generator)
            values[parameter.key] = value
            let text = JSONValue.object(values).text
            keys.insert(parameter.key)
            for isCatalog in [false, true] {
                let error = fault {
                    if isCatalog {
                        _ = try SchedulerCatalog.makeScheduler(json: text)
                    } else {
                        _ = try C(json: text)
                    }
                }
                // A wrong number of betas may be blamed on either key; the message has both.
                guard let error, Self.names(parameter.key, error) else {
                    Issue.record("\(parameter.key) = \(value.text): \(error?.description ?? "taken")\n\(text)")
                    return
                }
                #expect(error.description.utf8.count < 1000)
            }
        }
        if TestDraws.areComplete { #expect(keys.count == C.parameters.count, "a key was never drawn") }
    }

    private static func names(_ key: String, _ error: SchedulerError) -> Bool {
        switch error {
        case .invalidValue(let named, _, let allowed):
            named == key || named.hasPrefix(key + "[") || (key == "num_train_timesteps" && allowed.contains(key))
        case .conflictingKeys(let named, _): named.contains(key)
        default: false
        }
    }

    /// A value that the key can't have with any values of the other keys.
    private static func invalidValue<C>(
        of parameter: ConfigurationParameter<C>, _ generator: inout SeededGenerator
    ) -> JSONValue where C: SchedulerConfiguration {
        let number = { (text: String) in JSONValue.number(literal: text) }
        let outOfRange: [String: [JSONValue]] = [
            "num_train_timesteps": ["0", "-1", "1000001", "1000000000", "9223372036854775807", "99999999999999999999"].map(number),
            "beta_start": ["-1e-9", "1", "1e400", "-Infinity", "NaN"].map(number),
            "beta_end": ["-0.02", "1.0", "0.99999999999", "Infinity", "NaN"].map(number),
            "trained_betas": [[], [0.1, 0.2], [0.1, "a"], [[0.1]], .array(Array(repeating: 2, count: 1000))],
            "dynamic_thresholding_ratio": ["-0.1", "1.0001", "NaN", "Infinity"].map(number),
            "sample_max_value": ["0", "-0.0", "-1", "NaN"].map(number),
            "clip_sample_range": ["0", "-2.5", "NaN"].map(number),
            "flow_shift": ["0", "-1", "1e999", "NaN"].map(number),
            "steps_offset": ["-1", "1000001", "9999999999999999999999"].map(number),
            "solver_order": ["0", "5", "-1", "2147483648"].map(number),
            "predictor_order": ["0", "5", "-1"].map(number),
            "corrector_order": ["0", "5", "-1"].map(number),
            "tau_func": [[], [-1], [0, 1001]],
            "lambda_min_clipped": ["NaN", "Infinity"].map(number),
        ]
        let wrongKinds: [JSONValue] = [
            .string(String(UInt64.random(in: 0 ... .max, using: &generator), radix: 36)), true, 1, 2.5, [:], [1], ["a": 1], nil,
            .string(""), .string("\u{0}"), .array([nil]),
        ]
        // A kind that the key doesn't accept: the parameter itself is tried on a default configuration.
        let unreadable = wrongKinds.filter { value in
            var configuration = C()
            return fault { () throws(SchedulerError) in try parameter.read(parameter.key, value, &configuration) } != nil
        }
        let choices = (outOfRange[parameter.key] ?? []) + unreadable
        // A free text accepts any string or null.
        return choices.randomElement(using: &generator) ?? 1
    }
}

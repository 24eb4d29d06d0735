// SPDX-License-Identifier: Apache-2.0

extension SchedulerDefinition {
    /// The description from which other languages' classes, signatures and documents are made.
    ///
    /// | member | |
    /// |---|---|
    /// | `class_name` | diffusers' name |
    /// | `compatible_class_names` | the classes whose configurations this one can be made from |
    /// | `parameters` | in the order of diffusers' constructor: `key`, `type`, `default`, `words` where it is one of these, `summary`; \
    /// `override_name` where diffusers doesn't know the key |
    /// | `options` | the options of a run, in the same form: `key`, `type`, `default`, `summary`; `timestep_offset` if \
    /// diffusers' default is the step's timestep plus this number |
    /// | `attributes` | the attributes of diffusers' object: `tensors`, `history`, `age`, `timestep`, see ``StepAttributes`` |
    /// | `report` | diffusers' name of a step's second result |
    /// | `returns_report` | whether diffusers' `step` returns it |
    /// | `result_type` | the next sample's element type if sample and model output have different ones: see ``ResultType`` |
    /// | `noise_type` | the element type of the noise that diffusers draws: see ``NoiseType`` |
    /// | `update_names` | diffusers' names for the updates of orders 1, 2 … in its step |
    /// | `timestep_type` | the element type of diffusers' timesteps; null: int64 on the variance-preserving process, else float32 |
    /// | `sigma_type` | the element type of diffusers' noise levels: float32 or float64 |
    /// | `lists_end` | whether diffusers' list of timesteps ends with one more, the timestep that the last step leads to |
    /// | `counts_end` | whether a requested number of steps counts noise levels, including the one after the last step |
    /// | `brownian_motion` | the Brownian motion from which diffusers' steps take their noise: see ``BrownianMotion``; null: none |
    /// | `is_stateless` | whether steps depend on nothing but their arguments |
    /// | `batch_step` | diffusers' method that steps each batch item at a separate timestep: its `name`, and the `option` \
    /// that selects its steps; null: none |
    /// | `step_arguments` | arguments of diffusers' `step` for values that other classes hold or draw: ``StepArguments``; \
    /// null: none |
    /// | `calls` | the methods by which diffusers' pipelines step, if they don't call `step` at a timestep: see ``StepCall`` |
    /// | `has_velocity` | whether the scheduler computes the velocity that models are trained on |
    /// | `adds_noise_at_training_levels` | whether noise is added at training timesteps even if there is a plan |
    public static var schedulerDescription: JSONValue {
        [
            "class_name": .string(className),
            "compatible_class_names": .array(compatibleClassNames.map { .string($0) }),
            "parameters": .array(parameters.map { $0.description(of: Self()) }),
            "options": .array(Options.parameters.map { $0.description(of: Options()) }),
            "attributes": attributes.json,
            "report": .string(reportName),
            "returns_report": .bool(returnsReport),
            "result_type": .string(resultType.rawValue),
            "noise_type": .string(noiseType.rawValue),
            "update_names": .array(updateNames.map { .string($0) }),
            "timestep_type": timestepType.map { .string($0.rawValue) } ?? .null,
            "sigma_type": .string(sigmaType.rawValue),
            "lists_end": .bool(listsEnd),
            "counts_end": .bool(countsEnd),
            "brownian_motion": brownianMotion?.json ?? .null,
            "is_stateless": .bool(isStateless),
            "batch_step": batchStep?.json ?? .null,
            "step_arguments": stepArguments?.json ?? .null,
            "calls": .array(calls.map(\.json)),
            "has_velocity": .bool(Self.self is any VelocityDefinition.Type),
            "adds_noise_at_training_levels": .bool(addsNoiseAtTrainingLevels),
        ]
    }
}

extension ConfigurationParameter {
    /// - Parameter defaults: a configuration or options with their defaults.
    fileprivate func description(of defaults: Configuration) -> JSONValue {
        var members: [String: JSONValue] = [
            "key": .string(key), "type": .string(typeName), "default": write(defaults), "summary": .string(summary),
        ]
        members["words"] = keywords.map { .array($0.map { .string($0) }) }
        members["override_name"] = overrideName.map { .string($0) }
        members["timestep_offset"] = timestepOffset.map { JSONValue($0) }
        return .object(members)
    }
}

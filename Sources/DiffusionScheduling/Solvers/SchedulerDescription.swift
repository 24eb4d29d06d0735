// SPDX-License-Identifier: Apache-2.0

extension SchedulerDefinition {
    /// What other languages' classes, signatures and documents are made from.
    ///
    /// | member | |
    /// |---|---|
    /// | `class_name` | diffusers' name |
    /// | `compatible_class_names` | whose configurations this one can be made from |
    /// | `parameters` | in the order of diffusers' constructor: `key`, `type`, `default`, `words` where it is one of these, `summary`; \
    /// `override_name` where diffusers doesn't know the key |
    /// | `options` | what a run may be told, likewise: `key`, `type`, `default`, `summary`; `timestep_offset` where diffusers' step \
    /// takes its timestep plus this number for an option that is left out |
    /// | `attributes` | what diffusers' object keeps between steps: `tensors`, `history`, `age`, `timestep`, see ``StepAttributes`` |
    /// | `report` | diffusers' name of what a step gives besides the next sample |
    /// | `returns_report` | whether diffusers' `step` returns it |
    /// | `result_type` | the next sample's element type where the others differ: see ``ResultType`` |
    /// | `noise_type` | the element type of the noise that diffusers draws: see ``NoiseType`` |
    /// | `update_names` | diffusers' names of the updates that its step consists of, by their orders |
    /// | `timestep_type` | the element type of diffusers' timesteps, null: int64 on the variance-preserving process, else float32 |
    /// | `sigma_type` | the element type of diffusers' noise levels: float32 or float64 |
    /// | `lists_end` | whether diffusers' list of timesteps ends with the one that the last step leads to |
    /// | `counts_end` | whether a requested number of steps counts the level after the last step, too |
    /// | `brownian_motion` | the Brownian motion that diffusers' steps take their noise from, see ``BrownianMotion``; null: none |
    /// | `is_stateless` | whether steps depend on nothing but their arguments |
    /// | `batch_step` | diffusers' step of batch items at timesteps of their own, its `name` and the `option` that makes a step one of \
    /// its; null where diffusers has none |
    /// | `step_arguments` | diffusers' arguments of `step` for what its other classes hold or draw, see ``StepArguments``; null: none |
    /// | `has_velocity` | whether it computes the velocity that models are trained on |
    /// | `adds_noise_at_training_levels` | whether noise is added at training timesteps where there is a plan, too |
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
            "has_velocity": .bool(Self.self is any VelocityDefinition.Type),
            "adds_noise_at_training_levels": .bool(addsNoiseAtTrainingLevels),
        ]
    }
}

extension ConfigurationParameter {
    /// - Parameter defaults: a configuration, or options, as they are by default.
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

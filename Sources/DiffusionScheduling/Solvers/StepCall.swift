// SPDX-License-Identifier: Apache-2.0

/// A method by which diffusers' pipelines step a scheduler on noise levels of their own, in place of `step` at a timestep of the run.
///
/// Its row is ``SchedulerDefinition/attributeRow(at:age:of:)`` of a plan on these levels, and its tensors are arguments: the sample, the
/// model output `model_output`, and the tensors of ``SchedulerDefinition/attributes``.
public struct StepCall: Sendable, Equatable {
    /// The source of the levels.
    public enum Levels: Sendable, Equatable {
        /// The arguments of these names, and 0 after them.
        case arguments([String])
        /// Two elements of an attribute, a table of ascending levels: with the argument `timestep`, t, and n timesteps in the attribute
        /// `timesteps`, the element ⌊(n − 1) t⌋ and the one below it, or 0.
        case table(String)
        /// ‖z‖/‖e‖ twice, of the means over the batch of the noise's and the model output's Euclidean norms. In such a row, the
        /// coefficients of z are proportional to the level, and those of e to its square.
        case norms
    }

    /// diffusers' name of the method.
    public var name: String
    /// The index of the method's evaluation of the model in a plan on the levels.
    public var evaluation: Int
    /// The levels of that plan.
    public var levels: Levels
    /// The argument for the sample.
    public var sample: String
    /// The element type of the noise that the method draws; nil: it draws none.
    public var noiseType: NoiseType?
    /// The names of the results: `prev_sample` for the next sample, the report's, and those of tensors, stored or just given.
    public var results: [String]
    /// The results in diffusers' plain tuple.
    public var tupleResults: [String]

    /// A method; without `tupleResults`, the tuple has all results.
    init(
        _ name: String, evaluation: Int = 0, levels: Levels, sample: String = "sample", noiseType: NoiseType? = nil,
        results: [String], tupleResults: [String]? = nil
    ) {
        self.name = name
        self.evaluation = evaluation
        self.levels = levels
        self.sample = sample
        self.noiseType = noiseType
        self.results = results
        self.tupleResults = tupleResults ?? results
    }

    var json: JSONValue {
        func list(_ names: [String]) -> JSONValue { .array(names.map { .string($0) }) }
        var arguments: [String] = [], table: String?
        switch levels {
        case .arguments(let names): arguments = names
        case .table(let name): table = name
        case .norms: break
        }
        return [
            "name": .string(name), "evaluation": JSONValue(evaluation), "level_arguments": list(arguments),
            "level_table": table.map { .string($0) } ?? .null, "sample": .string(sample),
            "noise_type": noiseType.map { .string($0.rawValue) } ?? .null, "results": list(results),
            "tuple_results": list(tupleResults),
        ]
    }
}

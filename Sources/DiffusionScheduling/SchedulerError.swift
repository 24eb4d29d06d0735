// SPDX-License-Identifier: Apache-2.0

/// What can go wrong, with what a person needs to put it right: the key or argument, its value, and what is allowed.
///
/// An operation that throws has changed nothing: no sample, no slot, no index. The object it was called on stays usable.
public enum SchedulerError: Error, Sendable, Equatable {
    /// A configuration key or an argument has a value that is not allowed.
    case invalidValue(key: String, value: String, allowed: String)
    /// Keys that each are fine exclude one another.
    case conflictingKeys([String], reason: String)
    /// `_class_name` names a scheduler that isn't built in.
    case unsupportedScheduler(name: String, supported: [String])
    /// The file can't be read or written.
    case inaccessibleFile(path: String, reason: String)
    /// The text isn't the JSON that diffusers writes. Lines and columns count from 1, columns in bytes.
    case malformedJSON(line: Int, column: Int, reason: String)
    /// A plan is needed, and `setTimesteps` has not been called.
    case timestepsNotSet
    /// The timestep isn't one of the plan's, or not the one whose turn it is.
    case unknownTimestep(Double, expected: String)
    /// All steps of the plan have been taken.
    case stepPastEnd(stepCount: Int)
    /// An array has the wrong number of elements.
    case wrongElementCount(argument: String, count: Int, expected: String)
    /// The elements of this session are of another type.
    case wrongElementType(argument: String, type: String, expected: String)
    /// The step is stochastic and needs noise; `step` is its index in the plan where it has one.
    case missingNoise(step: Int?)
    /// A coefficient of the plan is not a finite number: the noise levels are too extreme for float64.
    case unrepresentablePlan(step: Int)
    /// The bytes are no saved state, or not as they were saved.
    case damagedState(reason: String)
    /// The state was saved by something else than what is to go on from it: with another plan, say.
    case foreignState(reason: String)
    /// There is no memory for a session's slots.
    case outOfMemory(byteCount: Int)
    /// The kernels refused a call, which is a fault of this library.
    case kernelFailure(reason: String)
    /// What is wrong with a row, in a step of many.
    indirect case row(Int, SchedulerError)
}

extension SchedulerError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .invalidValue(let key, let value, let allowed):
            "\(key) is \(value), but must be \(allowed)"
        case .conflictingKeys(let keys, let reason):
            "\(keys.joined(separator: " and ")) exclude one another: \(reason)"
        case .unsupportedScheduler(let name, let supported):
            "scheduler \(name) is not supported; supported are \(supported.joined(separator: ", "))"
        case .inaccessibleFile(let path, let reason):
            "\(path): \(reason)"
        case .malformedJSON(let line, let column, let reason):
            "malformed JSON in line \(line), column \(column): \(reason)"
        case .timestepsNotSet:
            "there are no timesteps yet: call setTimesteps first"
        case .unknownTimestep(let timestep, let expected):
            "timestep \(timestep) is not in the plan here; expected \(expected)"
        case .stepPastEnd(let stepCount):
            "all \(stepCount) steps have been taken: call setTimesteps, or reset the session, to start again"
        case .wrongElementCount(let argument, let count, let expected):
            "\(argument) has \(count) elements, but must have \(expected)"
        case .wrongElementType(let argument, let type, let expected):
            "\(argument) has elements of type \(type), but this session holds \(expected)"
        case .missingNoise(let step):
            "\(step.map { "step \($0)" } ?? "this step") is stochastic: pass noise, one standard normal number for each element of the sample"
        case .unrepresentablePlan(let step):
            "the coefficients of step \(step) are not finite in float64: the noise levels around it are too extreme"
        case .damagedState(let reason):
            "the saved state is damaged: \(reason)"
        case .foreignState(let reason):
            "the saved state doesn't belong here: \(reason)"
        case .outOfMemory(let byteCount):
            "there is no memory for slots of \(byteCount) bytes"
        case .kernelFailure(let reason):
            "the kernels refused the call, which is a fault of this library: \(reason)"
        case .row(let row, let error):
            "row \(row): \(error)"
        }
    }
}

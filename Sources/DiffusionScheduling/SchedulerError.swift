// SPDX-License-Identifier: Apache-2.0

/// The errors of this library. Each carries the key or argument, its value and the allowed values.
///
/// An operation that throws changes nothing: no sample, slot or index. Its object stays usable.
public enum SchedulerError: Error, Sendable, Equatable {
    /// A configuration key or an argument has a value that isn't allowed.
    case invalidValue(key: String, value: String, allowed: String)
    /// Configuration keys exclude one another.
    case conflictingKeys([String], reason: String)
    /// `_class_name` names an unsupported scheduler. `reason` says why it can't be one, where that is known.
    case unsupportedScheduler(name: String, supported: [String], reason: String? = nil)
    /// The file can't be read or written.
    case inaccessibleFile(path: String, reason: String)
    /// The text isn't the JSON that diffusers writes. Lines and columns count from 1, columns in bytes.
    case malformedJSON(line: Int, column: Int, reason: String)
    /// The call needs a plan, but `setTimesteps` hasn't been called.
    case timestepsNotSet
    /// The timestep isn't one of the plan's, or isn't the next step's.
    case unknownTimestep(Double, expected: String)
    /// All steps of the plan have been taken.
    case stepPastEnd(stepCount: Int)
    /// An array has the wrong number of elements.
    case wrongElementCount(argument: String, count: Int, expected: String)
    /// A tensor's elements have the wrong type, for the session or for the call's other tensors.
    case wrongElementType(argument: String, type: String, expected: String)
    /// The step is stochastic, but noise is missing. `step` is its index in the plan, if it has one.
    case missingNoise(step: Int?)
    /// A coefficient of the plan isn't finite: the noise levels are too extreme for float64.
    case unrepresentablePlan(step: Int)
    /// The bytes are not a saved state, or have been corrupted.
    case damagedState(reason: String)
    /// The state was saved with another plan.
    case foreignState(reason: String)
    /// Not enough memory for a session's slots.
    case outOfMemory(byteCount: Int)
    /// The scheduler has no such operation.
    case unsupportedOperation(String, className: String)
    /// The kernels refused a call, which is a fault of this library.
    case kernelFailure(reason: String)
    /// The error of one row in a step of many sessions.
    indirect case row(Int, SchedulerError)
}

extension SchedulerError: CustomStringConvertible {
    public var description: String { description(naming: .swift) }
}

/// The names of functions and arguments in messages. The C interface has its own.
package struct MessageNames: Sendable {
    /// The function that makes a plan.
    let setTimesteps: String
    /// The function that starts a finished run again.
    let restart: String
    /// The arguments whose names differ from Swift's, by their names in Swift.
    let arguments: [String: String]

    package init(setTimesteps: String, restart: String, arguments: [String: String]) {
        self.setTimesteps = setTimesteps
        self.restart = restart
        self.arguments = arguments
    }

    package static let swift = MessageNames(
        setTimesteps: "setTimesteps", restart: "setTimesteps, or reset on a session,", arguments: [:])

    fileprivate subscript(argument: String) -> String { arguments[argument] ?? argument }
}

extension SchedulerError {
    /// The message: what is wrong, then what is allowed. A sentence without a full stop.
    package func description(naming names: MessageNames) -> String {
        switch self {
        case .invalidValue(let key, let value, let allowed):
            "\(names[key]) is \(value), but must be \(allowed)"
        case .conflictingKeys(let keys, let reason):
            "\(keys.joined(separator: " and ")) can't be combined: \(reason)"
        case .unsupportedScheduler(let name, _, let reason?):
            "scheduler \(name) is not supported: \(reason)"
        case .unsupportedScheduler(let name, let supported, nil):
            "scheduler \(name) is not supported, only \(supported.joined(separator: ", "))"
        case .inaccessibleFile(let path, let reason):
            "\(path): \(reason)"
        case .malformedJSON(let line, let column, let reason):
            "malformed JSON at line \(line), column \(column): \(reason)"
        case .timestepsNotSet:
            "no timesteps have been set: call \(names.setTimesteps) first"
        case .unknownTimestep(let timestep, let expected):
            "timestep is \(timestep), but must be \(expected)"
        case .stepPastEnd(let stepCount):
            "all \(stepCount) steps have been taken: call \(names.restart) to start again"
        case .wrongElementCount(let argument, let count, let expected):
            "\(names[argument]) has \(count) elements, but must have \(expected)"
        case .wrongElementType(let argument, let type, let expected):
            "\(names[argument]) has elements of type \(type), but must have \(expected)"
        case .missingNoise(let step):
            "\(step.map { "step \($0)" } ?? "the step") is stochastic, but noise is missing: "
                + "pass one standard normal number per element of the sample"
        case .unrepresentablePlan(let step):
            "step \(step) has a coefficient that isn't finite in float64: its noise levels are too extreme"
        case .damagedState(let reason):
            "the saved state is damaged: \(reason)"
        case .foreignState(let reason):
            "the saved state belongs to another plan: \(reason)"
        case .outOfMemory(let byteCount):
            "not enough memory for slots of \(byteCount) bytes"
        case .unsupportedOperation(let operation, let className):
            "\(className) has no \(operation)"
        case .kernelFailure(let reason):
            "the kernels refused the call, which is a fault of this library: \(reason)"
        case .row(let row, let error):
            "row \(row): \(error.description(naming: names))"
        }
    }
}

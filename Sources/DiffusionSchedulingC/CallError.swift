// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling

/// The errors of calls from C that `SchedulerError` doesn't have.
enum CallError: Error, Equatable {
    /// A required argument is NULL.
    case nullPointer(argument: String)
    /// The handle is zero, has been freed, or has another kind.
    case invalidHandle(UInt64, kind: String)
    /// The number is not one of `ds_element_type`.
    case unknownElementType(argument: String, number: UInt32)
    /// A negative extent, or too many axes.
    case invalidShape(argument: String, reason: String)
    /// The elements don't fit the address space.
    case tooLarge(argument: String)
    /// The address is not a multiple of the element size.
    case misaligned(argument: String, alignment: Int)
    /// An output overlaps an input in part, or another output.
    case overlap(output: String, other: String, orInPlace: Bool = true)
    /// The shapes of two tensors don't match.
    case shapeMismatch(argument: String, shape: String, expected: String)
    /// The result doesn't fit the buffer.
    case bufferTooSmall(capacity: Int, needed: Int)
    /// All slots for handles of a kind are taken.
    case tooManyHandles(kind: String)
}

extension CallError: CustomStringConvertible {
    var description: String {
        switch self {
        case .nullPointer(let argument):
            "\(argument) is NULL"
        case .invalidHandle(let handle, let kind):
            handle == 0
                ? "the handle of the \(kind) is zero"
                : "there is no \(kind) with the handle \(handle): it has been freed, or the handle is of another kind"
        case .unknownElementType(let argument, let number):
            "the element type of \(argument) is \(number), but must be one of ds_element_type"
        case .invalidShape(let argument, let reason):
            "the shape of \(argument) is invalid: \(reason)"
        case .tooLarge(let argument):
            "\(argument) doesn't fit the address space"
        case .misaligned(let argument, let alignment):
            "the address of \(argument) is not a multiple of its element size, \(alignment) bytes"
        case .overlap(let output, let other, let isInPlace):
            isInPlace
                ? "\(output) overlaps \(other): an output must be separate from other tensors, or exactly in place of an input"
                : "\(output) overlaps \(other): the two must be separate"
        case .shapeMismatch(let argument, let shape, let expected):
            "\(argument) has the shape \(shape), but must have \(expected)"
        case .bufferTooSmall(let capacity, let needed):
            "the buffer has room for \(capacity), but needs \(needed)"
        case .tooManyHandles(let kind):
            "too many objects of the kind \(kind) exist: free some first"
        }
    }
}

// MARK: - Status numbers

extension CallError {
    var status: ds_status {
        switch self {
        case .nullPointer: DS_NULL_POINTER
        case .invalidHandle: DS_INVALID_HANDLE
        case .unknownElementType: DS_UNKNOWN_ELEMENT_TYPE
        case .invalidShape: DS_INVALID_SHAPE
        case .tooLarge: DS_TOO_LARGE
        case .misaligned: DS_MISALIGNED
        case .overlap: DS_OVERLAP
        case .shapeMismatch: DS_SHAPE_MISMATCH
        case .bufferTooSmall: DS_BUFFER_TOO_SMALL
        case .tooManyHandles: DS_TOO_MANY_HANDLES
        }
    }
}

extension SchedulerError {
    /// The number that C sees.
    var status: ds_status {
        switch self {
        case .invalidValue: DS_INVALID_VALUE
        case .conflictingKeys: DS_CONFLICTING_KEYS
        case .unsupportedScheduler: DS_UNSUPPORTED_SCHEDULER
        case .inaccessibleFile: DS_INACCESSIBLE_FILE
        case .malformedJSON: DS_MALFORMED_JSON
        case .timestepsNotSet: DS_TIMESTEPS_NOT_SET
        case .unknownTimestep: DS_UNKNOWN_TIMESTEP
        case .stepPastEnd: DS_STEP_PAST_END
        case .wrongElementCount: DS_WRONG_ELEMENT_COUNT
        case .wrongElementType: DS_WRONG_ELEMENT_TYPE
        case .missingNoise: DS_MISSING_NOISE
        case .unrepresentablePlan: DS_UNREPRESENTABLE_PLAN
        case .damagedState: DS_DAMAGED_STATE
        case .foreignState: DS_FOREIGN_STATE
        case .outOfMemory: DS_OUT_OF_MEMORY
        case .kernelFailure: DS_KERNEL_FAILURE
        case .unsupportedOperation: DS_UNSUPPORTED_OPERATION
        case .row(_, let error): error.status
        }
    }
}

// MARK: - Messages

extension MessageNames {
    /// C's names, where they differ from Swift's.
    static let c = MessageNames(
        setTimesteps: "ds_scheduler_set_timesteps", restart: "ds_session_reset",
        arguments: [
            "modelOutput": "model_output", "drawnWordCount": "the number of drawn words", "spareNormal": "the spare normal",
        ])
}

/// Runs the body of an interface function. An error becomes a status and this thread's error text.
@inline(__always)
func status(_ body: () throws -> Void) -> ds_status {
    do {
        try body()
        return DS_OK
    } catch {
        return report(error)
    }
}

@inline(never)
private func report(_ error: any Error) -> ds_status {
    switch error {
    case let error as CallError:
        setErrorText(error.description)
        return error.status
    case let error as SchedulerError:
        setErrorText(error.description(naming: .c))
        return error.status
    default:
        // No other errors are thrown.
        setErrorText("\(error)")
        return DS_INVALID_VALUE
    }
}

private func setErrorText(_ text: String) {
    let buffer = UnsafeMutableRawBufferPointer(start: dsi_error_text(), count: Int(DSI_ERROR_TEXT_SIZE))
    var count = 0
    // Whole characters only, and no zero within the text.
    for scalar in text.unicodeScalars where scalar != "\0" {
        let units = Array(String(scalar).utf8)
        if count + units.count >= buffer.count { break }
        for unit in units {
            buffer[count] = unit
            count += 1
        }
    }
    buffer[count] = 0
}

/// Checks a number from C. Numbers above Int.max arrive negative.
@inline(__always)
func require(
    _ number: Int, in range: Range<Int>, _ argument: @autoclosure () -> String, _ allowed: @autoclosure () -> String
) throws {
    guard range.contains(number) else {
        throw SchedulerError.invalidValue(key: argument(), value: "\(UInt(bitPattern: number))", allowed: allowed())
    }
}

/// A required pointer argument.
@inline(__always)
func require<Pointer>(_ pointer: Pointer?, _ argument: StaticString) throws -> Pointer {
    guard let pointer else { throw CallError.nullPointer(argument: "\(argument)") }
    return pointer
}

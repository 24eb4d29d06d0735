// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling
import Testing

@testable import DiffusionSchedulingC

/// Each error of the Swift library has one number in C; its message, with C's names, is the error text.
@Suite struct StatusTests {
    static let schedulerErrors: [(SchedulerError, ds_status, Int)] = [
        (.invalidValue(key: "solver_order", value: "9", allowed: "1, 2 or 3"), DS_INVALID_VALUE, 1),
        (.conflictingKeys(["a", "b"], reason: "c"), DS_CONFLICTING_KEYS, 2),
        (.unsupportedScheduler(name: "a", supported: ["b"]), DS_UNSUPPORTED_SCHEDULER, 3),
        (.inaccessibleFile(path: "a", reason: "b"), DS_INACCESSIBLE_FILE, 4),
        (.malformedJSON(line: 1, column: 2, reason: "a"), DS_MALFORMED_JSON, 5),
        (.timestepsNotSet, DS_TIMESTEPS_NOT_SET, 6),
        (.unknownTimestep(1, expected: "a"), DS_UNKNOWN_TIMESTEP, 7),
        (.stepPastEnd(stepCount: 1), DS_STEP_PAST_END, 8),
        (.wrongElementCount(argument: "a", count: 1, expected: "b"), DS_WRONG_ELEMENT_COUNT, 9),
        (.wrongElementType(argument: "a", type: "b", expected: "c"), DS_WRONG_ELEMENT_TYPE, 10),
        (.missingNoise(step: nil), DS_MISSING_NOISE, 11),
        (.unrepresentablePlan(step: 1), DS_UNREPRESENTABLE_PLAN, 12),
        (.damagedState(reason: "a"), DS_DAMAGED_STATE, 13),
        (.foreignState(reason: "a"), DS_FOREIGN_STATE, 14),
        (.outOfMemory(byteCount: 1), DS_OUT_OF_MEMORY, 25),
        (.kernelFailure(reason: "a"), DS_KERNEL_FAILURE, 27),
        (.unsupportedOperation("a", className: "b"), DS_UNSUPPORTED_OPERATION, 24),
    ]

    static let callErrors: [(CallError, ds_status, Int)] = [
        (.nullPointer(argument: "a"), DS_NULL_POINTER, 15),
        (.invalidHandle(1, kind: "a"), DS_INVALID_HANDLE, 16),
        (.unknownElementType(argument: "a", number: 9), DS_UNKNOWN_ELEMENT_TYPE, 17),
        (.invalidShape(argument: "a", reason: "b"), DS_INVALID_SHAPE, 18),
        (.tooLarge(argument: "a"), DS_TOO_LARGE, 19),
        (.misaligned(argument: "a", alignment: 4), DS_MISALIGNED, 20),
        (.overlap(output: "a", other: "b"), DS_OVERLAP, 21),
        (.shapeMismatch(argument: "a", shape: "b", expected: "c"), DS_SHAPE_MISMATCH, 22),
        (.bufferTooSmall(capacity: 1, needed: 2), DS_BUFFER_TOO_SMALL, 23),
        (.tooManyHandles(kind: "a"), DS_TOO_MANY_HANDLES, 26),
    ]

    static var errorMessage: String { String(cString: ds_error_message()) }

    @Test func numbersAreFixed() {
        #expect(DS_OK.rawValue == 0)
        for (error, name, number) in Self.schedulerErrors {
            #expect(name.rawValue == UInt32(number))
            #expect(error.status == name)
            #expect(status { throw error } == name)
            #expect(Self.errorMessage == error.description(naming: .c))
        }
        for (error, name, number) in Self.callErrors {
            #expect(name.rawValue == UInt32(number))
            #expect(error.status == name)
            #expect(status { throw error } == name)
            #expect(Self.errorMessage == error.description)
        }
        let numbers = Self.schedulerErrors.map(\.2) + Self.callErrors.map(\.2)
        #expect(numbers.sorted() == Array(1...27))
    }

    @Test func everyStatusHasASentence() {
        let sentences = (0...27).map { String(cString: ds_status_message(ds_status($0))) }
        #expect(Set(sentences).count == 28)
        #expect(String(cString: ds_status_message(ds_status(28))) == "unknown status")
    }

    /// Messages use Swift's names in Swift and C's names in C, also for a row's error.
    @Test func messagesHaveTheNamesOfTheirLanguage() {
        let short = SchedulerError.wrongElementCount(argument: "modelOutput", count: 1, expected: "2")
        let drawn = SchedulerError.invalidValue(key: "drawnWordCount", value: "700", allowed: "from 0 to 624")
        let spare = SchedulerError.invalidValue(key: "spareNormal", value: "99.0", allowed: "from -16 to 16")
        let messages: [(SchedulerError, swift: String, c: String)] = [
            (
                .timestepsNotSet, "no timesteps have been set: call setTimesteps first",
                "no timesteps have been set: call ds_scheduler_set_timesteps first"
            ),
            (
                .stepPastEnd(stepCount: 3),
                "all 3 steps have been taken: call setTimesteps, or reset on a session, to start again",
                "all 3 steps have been taken: call ds_session_reset to start again"
            ),
            (short, "modelOutput has 1 elements, but must have 2", "model_output has 1 elements, but must have 2"),
            (
                .row(7, short), "row 7: modelOutput has 1 elements, but must have 2",
                "row 7: model_output has 1 elements, but must have 2"
            ),
            (
                drawn, "drawnWordCount is 700, but must be from 0 to 624",
                "the number of drawn words is 700, but must be from 0 to 624"
            ),
            (spare, "spareNormal is 99.0, but must be from -16 to 16", "the spare normal is 99.0, but must be from -16 to 16"),
            (
                .inaccessibleFile(path: "modelOutput", reason: "No such file"), "modelOutput: No such file",
                "modelOutput: No such file"
            ),
        ]
        for (error, swift, c) in messages {
            #expect(error.description == swift)
            _ = status { throw error }
            #expect(Self.errorMessage == c)
        }
    }

    @Test func longTextsAreCutAtACharacter() {
        let key = String(repeating: "é", count: 3000)
        #expect(status { throw SchedulerError.invalidValue(key: key, value: "", allowed: "") } == DS_INVALID_VALUE)
        #expect(Self.errorMessage == String(repeating: "é", count: 511))
        #expect(status { throw SchedulerError.invalidValue(key: "a\0b", value: "1", allowed: "2") } == DS_INVALID_VALUE)
        #expect(Self.errorMessage == "ab is 1, but must be 2")
    }

    /// The type numbers that C, the kernels and saved states share.
    @Test func elementTypes() {
        let numbers: [(ElementType, ds_element_type)] = [
            (.float32, DS_FLOAT32), (.float64, DS_FLOAT64), (.float16, DS_FLOAT16), (.bfloat16, DS_BFLOAT16),
        ]
        #expect(Set(numbers.map(\.0)) == Set(ElementType.allCases))
        for (index, (type, number)) in numbers.enumerated() {
            #expect(number.rawValue == UInt32(index))
            #expect(type.savedNumber == number.rawValue)
            #expect(ElementType(number) == type)
            #expect(ElementType(savedNumber: number.rawValue) == type)
            #expect(ds_element_size(number) == type.size)
        }
        #expect(ds_element_size(ds_element_type(4)) == 0)
    }

    @Test func version() {
        #expect(ds_version() == UInt32(DS_VERSION_MAJOR * 10000 + DS_VERSION_MINOR * 100 + DS_VERSION_PATCH))
    }
}

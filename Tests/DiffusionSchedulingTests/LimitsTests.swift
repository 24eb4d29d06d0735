// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// Limits on untrusted input: each one is tested at the limit and one beyond it.
@Suite struct LimitsTests {
    static func malformed(
        _ bytes: [UInt8], reason expected: String, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        guard case .malformedJSON(_, _, let reason)? = fault({ _ = try JSONReader.read(bytes) }) else {
            Issue.record("taken", sourceLocation: sourceLocation)
            return
        }
        #expect(reason.contains(expected), "\(reason)", sourceLocation: sourceLocation)
    }

    // MARK: Configurations

    /// Text of exactly the maximum size is read, and here found invalid; with one byte more it isn't read.
    @Test func bytes() throws {
        let limit = Limits.configurationByteCount
        var bytes = [UInt8](repeating: 0, count: limit)
        Self.malformed(bytes, reason: "this is not a JSON value")
        bytes.append(0)
        Self.malformed(bytes, reason: "more than \(limit) bytes")

        let folder = try TemporaryFolder()
        let file = try folder.write("", to: "scheduler_config.json")
        #expect(truncate(file, limit) == 0)
        guard case .malformedJSON? = fault({ _ = try DDIMConfiguration(contentsOf: file) }) else {
            Issue.record("a file of \(limit) bytes isn't read")
            return
        }
        #expect(truncate(file, limit + 1) == 0)
        guard case .inaccessibleFile(file, let reason)? = fault({ _ = try DDIMConfiguration(contentsOf: file) }) else {
            Issue.record("a file of \(limit + 1) bytes is read")
            return
        }
        #expect(reason.contains("\(limit + 1) bytes") && reason.contains("\(limit)"))
    }

    @Test(arguments: ["[]", "{\"a\":}"]) func nesting(_ brackets: String) throws {
        func nested(_ depth: Int) -> [UInt8] {
            let open = String(brackets.dropLast()), innermost = open.count == 1 ? "" : "0"
            return Array(
                (String(repeating: open, count: depth) + innermost
                    + String(repeating: String(brackets.suffix(1)), count: depth)).utf8)
        }
        // The outermost value has depth 0; in nested objects the innermost value is a number.
        let deepest = brackets == "[]" ? Limits.nesting + 1 : Limits.nesting
        #expect(throws: Never.self) { try JSONReader.read(nested(deepest)) }
        Self.malformed(nested(deepest + 1), reason: "nested deeper than \(Limits.nesting)")
    }

    /// `trained_betas` for the longest schedule fits; ten times as many numbers are refused long before their end.
    @Test func values() throws {
        let numbers = Limits.valueCount - 1  // the list itself counts, too
        #expect(numbers > Limits.trainingTimesteps)
        var text = [UInt8](repeating: UInt8(ascii: "0"), count: 2 * numbers + 1)
        for place in stride(from: 2, to: text.count, by: 2) { text[place] = UInt8(ascii: ",") }
        (text[0], text[text.count - 1]) = (UInt8(ascii: "["), UInt8(ascii: "]"))
        guard case .array(let values) = try JSONReader.read(text) else { return }
        #expect(values.count == numbers)
        text[text.count - 1] = UInt8(ascii: ",")
        Self.malformed(text + Array("0]".utf8), reason: "more than \(Limits.valueCount) values")
    }

    @Test func numbers() throws {
        for number in [
            String(repeating: "9", count: Limits.numberLength), "1e\(String(repeating: "9", count: Limits.numberLength - 2))",
        ] {
            #expect(try JSONReader.read(Array(number.utf8)) == .number(literal: number))
            Self.malformed(Array((number + "9").utf8), reason: "a number of more than \(Limits.numberLength) characters")
        }
        // Numbers of an allowed length are read as they are: beyond any integer of this machine, infinite, or 0.
        let digits = String(repeating: "9", count: 1000)
        expectInvalid("solver_order", String(digits.prefix(Limits.quotedByteCount)) + "… (1000 bytes)", allowed: "an integer") {
            _ = try DEISMultistepConfiguration(json: "{\"solver_order\": \(digits)}")
        }
        expectInvalid("beta_end", "inf", allowed: "less than 1") {
            _ = try DEISMultistepConfiguration(json: "{\"beta_end\": 1e999999}")
        }
        #expect(try DEISMultistepConfiguration(json: "{\"beta_start\": 1e-999999}").betaStart == 0)
        #expect(try DEISMultistepConfiguration(json: "{\"beta_start\": -0.0}").betaStart == 0)
    }

    @Test func trainingTimesteps() throws {
        let limit = Limits.trainingTimesteps
        var configuration = DDIMConfiguration()
        configuration.numTrainTimesteps = limit
        configuration.betaEnd = 1e-5
        configuration.betaStart = 1e-6
        #expect(try DDIMScheduler(configuration).count == limit)
        for beyond in [limit + 1, 1_000_000_000, .max] {
            configuration.numTrainTimesteps = beyond
            expectInvalid("num_train_timesteps", "\(beyond)", allowed: "from 1 to \(limit)") {
                _ = try DDIMScheduler(configuration)
            }
        }
    }

    @Test func steps() throws {
        let limit = Limits.steps
        let deis = try makeDEIS { $0.solverOrder = 1 }
        #expect(try deis.plan(.count(limit)).stepCount == limit)
        expectInvalid("number of steps", "\(limit + 1)", allowed: "to \(limit)") { _ = try deis.plan(.count(limit + 1)) }
        let inverse = try DPMSolverMultistepInverseScheduler()
        for count in [limit + 1, .max, 0, -1, .min] {
            expectInvalid("number of steps", "\(count)", allowed: "to \(limit)") { _ = try inverse.plan(.count(count)) }
        }
        let many = (0...limit).map { Double($0) / Double(limit) }
        expectInvalid("number of timesteps", "\(limit + 1)", allowed: "to \(limit)") { _ = try inverse.plan(.timesteps(many)) }
        expectInvalid("number of sigmas", "\(limit + 1)", allowed: "to \(limit)") { _ = try deis.plan(.sigmas(many.reversed())) }
    }

    /// DDIM takes a step for every training timestep, and a schedule may have more timesteps than a plan has steps.
    @Test func stepsOfLongSchedules() throws {
        let limit = Limits.steps
        var configuration = DDIMConfiguration()
        configuration.numTrainTimesteps = 2 * limit
        (configuration.betaStart, configuration.betaEnd) = (1e-6, 1e-5)
        let ddim = try DDIMScheduler(configuration)
        #expect(try ddim.plan(.count(limit)).stepCount == limit)
        expectInvalid("number of steps", "\(limit + 1)", allowed: "at most \(limit)") { _ = try ddim.plan(.count(limit + 1)) }
        expectInvalid("number of timesteps", "\(limit + 1)", allowed: "to \(limit)") {
            _ = try ddim.plan(.timesteps((0...limit).reversed().map(Double.init)))
        }
    }

    // MARK: Plans and sessions

    /// A plan made in code, or decoded from a file.
    @Test func plans() throws {
        func plan(steps: Int, initNoiseSigma: Double = 1) throws -> SamplingPlan {
            let grid = TimestepGrid(
                timesteps: [Double](repeating: 1, count: steps), sigmas: [Double](repeating: 1, count: steps + 1),
                process: .variancePreserving)
            let row = PlanRow(prediction: Combination(sample: 1), nextSample: Combination(sample: 1))
            return try SamplingPlan(
                grid: grid, initNoiseSigma: initNoiseSigma,
                rows: [[PlanRow]](repeating: [row], count: steps))
        }
        #expect(try plan(steps: Limits.steps).stepCount == Limits.steps)
        expectInvalid("number of timesteps", "\(Limits.steps + 1)", allowed: "at most \(Limits.steps)") {
            _ = try plan(steps: Limits.steps + 1)
        }
        for sigma in [Double.nan, .infinity, -1] {
            expectInvalid("initial noise sigma", "\(sigma)", allowed: "finite") { _ = try plan(steps: 1, initNoiseSigma: sigma) }
        }
    }

    /// A saved session without live slots takes no memory for its elements, but their number must be a valid size: with a plan
    /// without slots, after a whole step of Heun, and at the end of a run of DEIS.
    @Test(arguments: [
        (#"{"_class_name": "DDIMScheduler"}"#, 1), (#"{"_class_name": "HeunDiscreteScheduler"}"#, 2),
        (#"{"_class_name": "DEISMultistepScheduler"}"#, 4),
    ]) func elementsOfSavedSessions(configuration: String, steps: Int) throws {
        let plan = try SchedulerCatalog.makeScheduler(json: configuration).plan(.count(4))
        var session = SamplingSession(plan: plan), sample: [Float] = [1, 2]
        for _ in 0..<steps { try session.step(modelOutput: [0, 0], sample: &sample) }
        // Slots that become live again hold the values of an uninterrupted run.
        var resumed = try SamplingSession(plan: plan, restoring: session.savedState()), copy = sample
        var original = session, other = sample
        while original.timestep != nil {
            try original.step(modelOutput: [0.5, -1], sample: &other)
            try resumed.step(modelOutput: [0.5, -1], sample: &copy)
        }
        #expect(copy == other && resumed.savedState() == original.savedState())
        func restored(elementCount: UInt64) throws -> SamplingSession {
            var bytes = session.savedState()
            bytes.withUnsafeMutableBytes { bytes in
                bytes.storeBytes(of: elementCount.littleEndian, toByteOffset: 48, as: UInt64.self)
                let end = bytes.count - 8
                let sum = Checksum.of(UnsafeRawBufferPointer(rebasing: bytes[..<end]))
                bytes.storeBytes(of: sum.littleEndian, toByteOffset: end, as: UInt64.self)
            }
            return try SamplingSession(plan: plan, restoring: bytes)
        }
        let most = UInt64(Int.max / 4)
        var greatest = try restored(elementCount: most)
        #expect(greatest.savedState().count == 72)
        #expect(throws: SchedulerError.self) { try greatest.step(modelOutput: [0, 0], sample: &sample) }
        for count in [most + 1, UInt64(Int.max), UInt64.max] {
            guard case .damagedState? = fault({ _ = try restored(elementCount: count) }) else {
                Issue.record("\(count) elements are taken")
                continue
            }
        }
    }

    /// Words that are all 0 yield zeros forever, and the polar method would search among them without end.
    @Test func twisterWordsThatLeadNowhere() throws {
        var words = [UInt32](repeating: 0, count: 624)
        for first: UInt32 in [0, 1, 0x7FFF_FFFF] {
            words[0] = first
            expectInvalid("words", "all 0 except for the first word's lower bits", allowed: "a seeded generator") {
                _ = try MersenneTwisterState(words: words, drawnWordCount: 624)
            }
        }
        words[0] = 0x8000_0000
        var noise = NumPyNoise(state: try MersenneTwisterState(words: words, drawnWordCount: 624))
        #expect(noise.doubleNormals(4).allFinite)
        words[0] = 0
        words[623] = 1
        noise = NumPyNoise(state: try MersenneTwisterState(words: words, drawnWordCount: 0))
        #expect(noise.doubleNormals(4).allFinite)
    }

    // MARK: Quotes in errors

    @Test func errorsQuoteABeginning() {
        let long = String(repeating: "ä", count: 100_000)
        // Sentences that list the supported classes may be longer.
        let names = SchedulerCatalog.supportedClassNames.joined(separator: ", ").utf8.count
        let list = "[" + String(repeating: "\"\(long)\", ", count: 10) + "1]"
        for json in [
            #"{"_class_name": "\#(long)"}"#, #"{"_class_name": \#(list)}"#, #"{"\#(long)" 1}"#,
            #"{"_class_name": "DDIMScheduler", "trained_betas": \#(list)}"#,
            #"{"_class_name": "DDIMScheduler", "prediction_type": "\#(long)"}"#,
            #"{"_class_name": "DEISMultistepScheduler", "sigma_min": \#(list)}"#,
        ] {
            let description = fault { _ = try SchedulerCatalog.makeScheduler(json: json) }?.description ?? ""
            #expect(!description.isEmpty && description.utf8.count < 400 + names, "\(description.prefix(300))")
        }
        #expect(long.quoted == String(repeating: "ä", count: 100) + "… (200000 bytes)")
        #expect(("a" + long).quoted.hasPrefix("a" + String(repeating: "ä", count: 99) + "…"))
        // A single character can have any length, made of many scalars.
        #expect(("e" + String(repeating: "\u{301}", count: 1000)).quoted.utf8.count < 300)
        #expect("short".quoted == "short")
    }

    // MARK: Spellings

    @Test func theLastOfEqualKeysCounts() throws {
        #expect(try DEISMultistepConfiguration(json: #"{"solver_order": 9, "solver_order": 3}"#).solverOrder == 3)
        expectInvalid("solver_order", "9", allowed: "1, 2, 3 or 4") {
            _ = try DEISMultistepConfiguration(json: #"{"solver_order": 3, "solver_order": 9}"#)
        }
        // An escaped spelling names the same key.
        #expect(try DEISMultistepConfiguration(json: #"{"solver_order": 1, "solver\u005forder": 3}"#).solverOrder == 3)
    }

    @Test func byteOrderMarks() throws {
        let text = Array(#"{"solver_order": 3}"#.utf8)
        #expect(try DEISMultistepConfiguration(json: [0xEF, 0xBB, 0xBF] + text).solverOrder == 3)
        for mark: [UInt8] in [[0xFE, 0xFF], [0xFF, 0xFE], [0xEF, 0xBB], [0xEF, 0xBB, 0xBF, 0xEF, 0xBB, 0xBF]] {
            Self.malformed(mark + text, reason: "not a JSON value")
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestDraws
import Testing

@testable import DiffusionScheduling

/// Values that a configuration may not have: the error names the key, the value and the allowed values.
@Suite struct InvalidConfigurationTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let json: String
        let key, value, allowed: String
        init(_ json: String, _ key: String, _ value: String, _ allowed: String) {
            (self.json, self.key, self.value, self.allowed) = (json, key, value, allowed)
        }
        var testDescription: String { json }
    }

    static let cases: [Case] = [
        Case(#""timestep_spacing": "log""#, "timestep_spacing", #""log""#, "linspace, leading, trailing"),
        Case(#""timestep_spacing": null"#, "timestep_spacing", "null", "linspace"),
        Case(#""timestep_spacing": "Linspace""#, "timestep_spacing", #""Linspace""#, "linspace"),
        Case(#""beta_schedule": "sigmoid""#, "beta_schedule", #""sigmoid""#, "linear, scaled_linear, squaredcos_cap_v2"),
        Case(#""beta_schedule": "laplace""#, "beta_schedule", #""laplace""#, "linear"),
        Case(#""prediction_type": "noise""#, "prediction_type", #""noise""#, "epsilon, sample, v_prediction, flow_prediction"),
        Case(#""prediction_type": 1"#, "prediction_type", "1", "epsilon"),
        Case(#""solver_type": "euler""#, "solver_type", #""euler""#, "logrho, bh1, bh2, heun, midpoint"),
        Case(#""algorithm_type": "sde-dpmsolver++""#, "algorithm_type", #""sde-dpmsolver++""#, "deis, dpmsolver, dpmsolver++"),
        Case(#""time_shift_type": "linear""#, "time_shift_type", #""linear""#, "exponential"),
        Case(#""solver_order": 0"#, "solver_order", "0", "1, 2, 3 or 4"),
        Case(#""solver_order": 5"#, "solver_order", "5", "1, 2, 3 or 4"),
        Case(#""solver_order": -1"#, "solver_order", "-1", "1, 2, 3 or 4"),
        Case(#""solver_order": 2.5"#, "solver_order", "2.5", "an integer"),
        Case(#""solver_order": "2""#, "solver_order", #""2""#, "an integer"),
        Case(#""solver_order": 99999999999999999999"#, "solver_order", "99999999999999999999", "an integer"),
        Case(#""thresholding": 1"#, "thresholding", "1", "true or false"),
        Case(#""thresholding": "true""#, "thresholding", #""true""#, "true or false"),
        Case(#""lower_order_final": null"#, "lower_order_final", "null", "true or false"),
        Case(#""beta_start": NaN"#, "beta_start", "nan", "at least 0 and less than 1"),
        Case(#""beta_start": -0.5"#, "beta_start", "-0.5", "at least 0 and less than 1"),
        Case(#""beta_end": 1.0"#, "beta_end", "1.0", "at least 0 and less than 1"),
        Case(#""beta_end": 0.9999999999"#, "beta_end", "0.9999999999", "less than 1"),
        Case(#""beta_end": Infinity"#, "beta_end", "inf", "less than 1"),
        Case(#""beta_end": 1e400"#, "beta_end", "inf", "less than 1"),
        Case(#""beta_end": true"#, "beta_end", "true", "a number"),
        Case(#""beta_end": [0.02]"#, "beta_end", "[\n  0.02\n]", "a number"),
        Case(#""dynamic_thresholding_ratio": 1.01"#, "dynamic_thresholding_ratio", "1.01", "from 0 to 1"),
        Case(#""dynamic_thresholding_ratio": -0.01"#, "dynamic_thresholding_ratio", "-0.01", "from 0 to 1"),
        Case(#""dynamic_thresholding_ratio": NaN"#, "dynamic_thresholding_ratio", "nan", "from 0 to 1"),
        Case(#""sample_max_value": 0"#, "sample_max_value", "0.0", "greater than 0"),
        Case(#""sample_max_value": -1.5"#, "sample_max_value", "-1.5", "greater than 0"),
        Case(#""sample_max_value": NaN"#, "sample_max_value", "nan", "greater than 0"),
        Case(#""num_train_timesteps": 0"#, "num_train_timesteps", "0", "from 1 to 1000000"),
        Case(#""num_train_timesteps": -1000"#, "num_train_timesteps", "-1000", "from 1 to 1000000"),
        Case(#""num_train_timesteps": 1000000000"#, "num_train_timesteps", "1000000000", "from 1 to 1000000"),
        Case(#""trained_betas": [0.1, 0.2, 0.3]"#, "trained_betas", "a list of 3", "num_train_timesteps = 1000"),
        Case(#""trained_betas": []"#, "trained_betas", "a list of 0", "num_train_timesteps = 1000"),
        Case(#""num_train_timesteps": 2, "trained_betas": [0.1, 1]"#, "trained_betas[1]", "1.0", "less than 1"),
        Case(#""num_train_timesteps": 2, "trained_betas": [-0.1, 0.1]"#, "trained_betas[0]", "-0.1", "at least 0"),
        Case(#""num_train_timesteps": 2, "trained_betas": [0.1, NaN]"#, "trained_betas[1]", "nan", "less than 1"),
        Case(
            #""num_train_timesteps": 1, "trained_betas": ["a"]"#, "trained_betas", "[\n  \"a\"\n]",
            "a list; each element a number, or null"),
        Case(#""trained_betas": 0.1"#, "trained_betas", "0.1", "a list"),
        Case(#""flow_shift": 0"#, "flow_shift", "0.0", "greater than 0"),
        Case(#""flow_shift": -3"#, "flow_shift", "-3.0", "greater than 0"),
        Case(#""flow_shift": Infinity"#, "flow_shift", "inf", "finite"),
        Case(#""steps_offset": -1"#, "steps_offset", "-1", "from 0 to"),
        Case(#""steps_offset": 1000000000000"#, "steps_offset", "1000000000000", "from 0 to"),
        Case(#""sigma_min": -1.0"#, "sigma_min", "-1.0", "greater than 0"),
        Case(#""sigma_max": "high""#, "sigma_max", #""high""#, "a number"),
        Case(#""sigma_max": Infinity"#, "sigma_max", "Infinity", "a number"),
        Case(#""sigma_min": 5, "sigma_max": 2"#, "sigma_min", "5.0", "at most sigma_max = 2.0"),
        Case(
            #""diffusion_scheduling_final_sigmas_type": "none""#, "diffusion_scheduling_final_sigmas_type", #""none""#,
            "zero, sigma_min, or null"),
    ]

    @Test(arguments: cases) func isRefused(_ expected: Case) {
        expectInvalid(expected.key, expected.value, allowed: expected.allowed) {
            _ = try DEISMultistepConfiguration(json: "{\(expected.json)}")
        }
    }

    @Test(arguments: cases) func describesItself(_ expected: Case) throws {
        let error = try #require(fault { _ = try DEISMultistepConfiguration(json: "{\(expected.json)}") })
        for word in [expected.key, expected.value, expected.allowed] { #expect(error.description.contains(word)) }
    }

    @Test func isRefusedFromCodeAsWell() {
        expectInvalid("solver_order", "5", allowed: "1, 2, 3 or 4") { _ = try makeDEIS { $0.solverOrder = 5 } }
        expectInvalid("sample_max_value", "-inf", allowed: "greater than 0") { _ = try makeDEIS { $0.sampleMaxValue = -.infinity } }
        expectInvalid("num_train_timesteps", "\(Int.min)", allowed: "from 1") { _ = try makeDEIS { $0.numTrainTimesteps = .min } }
        expectInvalid("steps_offset", "\(Int.max)", allowed: "from 0") { _ = try makeDEIS { $0.stepsOffset = .max } }
        expectInvalid("sigma_max", "NaN", allowed: "a number") { _ = try makeDEIS { $0.sigmaMax = .nan } }
    }

    @Test func isRefusedFromDecodersAsWell() {
        let error = fault {
            _ = try JSONDecoder().decode(DEISMultistepConfiguration.self, from: Data(#"{"solver_order": 7}"#.utf8))
        }
        #expect(error == .invalidValue(key: "solver_order", value: "7", allowed: "1, 2, 3 or 4"))
    }

    @Test func isRefusedAsAnOverride() {
        expectInvalid("solver_order", "9", allowed: "1, 2, 3 or 4") {
            _ = try DEISMultistepConfiguration(json: "{}", overrides: ["solver_order": 9])
        }
    }

    /// The error names the key as the caller wrote it.
    @Test func anOverrideIsNamedAsItWasWritten() {
        expectInvalid("final_sigmas_type", #""none""#, allowed: "zero, sigma_min") {
            _ = try DEISMultistepConfiguration(json: "{}", overrides: ["final_sigmas_type": "none"])
        }
    }

    @Test(arguments: [
        ["use_karras_sigmas", "use_exponential_sigmas"], ["use_karras_sigmas", "use_beta_sigmas"],
        ["use_exponential_sigmas", "use_beta_sigmas"], ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"],
        ["use_karras_sigmas", "use_flow_sigmas"], ["use_beta_sigmas", "use_flow_sigmas"],
    ])
    func twoGridsAtOnceExcludeOneAnother(keys: [String]) throws {
        let json = "{" + keys.map { "\"\($0)\": true" }.joined(separator: ", ") + "}"
        let error = fault { _ = try DEISMultistepConfiguration(json: json) }
        guard case .conflictingKeys(let named, let reason)? = error else {
            Issue.record("\(json): \(String(describing: error))")
            return
        }
        #expect(named == keys && !reason.isEmpty)
        for key in keys { #expect(error?.description.contains(key) == true) }
    }

    @Test func aGridOfFlowLevelsFits() throws {
        let plan = try DEISMultistepScheduler(
            .init(json: #"{"use_karras_sigmas": true, "use_flow_sigmas": true, "sigma_min": 0.01, "sigma_max": 0.95}"#)
        ).plan(.count(5))
        #expect(plan.grid.process == .flow && abs(plan.sigmas[0] - 0.95) < 1e-7)
    }
}

/// Text and files that aren't configurations.
@Suite struct InvalidFileTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let text: String
        let line, column: Int
        init(_ text: String, _ line: Int, _ column: Int) { (self.text, self.line, self.column) = (text, line, column) }
        var testDescription: String { String(text.prefix(40)) }
    }

    @Test(arguments: [
        Case("", 1, 1), Case("   ", 1, 4), Case("not JSON", 1, 1), Case("{", 1, 2), Case("{\n  \"a\": 1,\n}", 3, 1),
        Case("{\"a\" 1}", 1, 6), Case("{\"a\": 1 \"b\": 2}", 1, 9), Case("{'a': 1}", 1, 2), Case("{\"a\": 01}", 1, 9),
        Case("{\"a\": +1}", 1, 7), Case("{\"a\": .5}", 1, 7), Case("{\"a\": 1.}", 1, 9), Case("{\"a\": 1e}", 1, 9),
        Case("{\"a\": -}", 1, 8), Case("{\"a\": -NaN}", 1, 8), Case("{\"a\": tru}", 1, 7), Case("{\"a\": True}", 1, 7),
        Case("{\"a\": [1, 2}", 1, 12), Case("{\"a\": [1,]}", 1, 10), Case("{\"a\": \"b", 1, 9), Case("{\"a\": \"\u{1}\"}", 1, 9),
        Case("{\"a\": \"\\x\"}", 1, 10), Case("{\"a\": \"\\u12\"}", 1, 12), Case("{\"a\": \"\\ud800\"}", 1, 14),
        Case("{} {}", 1, 4), Case("{}x", 1, 3), Case("// no\n{}", 1, 1), Case("{\"a\": 0x10}", 1, 8),
    ])
    func otherTextIsMalformed(_ expected: Case) {
        guard
            case .malformedJSON(let line, let column, let reason)? = fault({
                _ = try DEISMultistepConfiguration(json: expected.text)
            })
        else {
            Issue.record("\(expected.text) was taken")
            return
        }
        #expect(line == expected.line && !reason.isEmpty, "\(reason)")
        #expect(column == expected.column, "\(reason)")
    }

    @Test(arguments: ["[]", "1", "null", "true", "\"{}\"", "[{\"solver_order\": 2}]", "-Infinity"])
    func jsonThatIsNoObjectIsMalformed(text: String) {
        let expected = SchedulerError.malformedJSON(line: 1, column: 1, reason: "a configuration must be an object in braces")
        #expect(fault { _ = try DEISMultistepConfiguration(json: text) } == expected)
        #expect(fault { _ = try SchedulerCatalog.makeScheduler(json: text) } == expected)
    }

    @Test func bytesThatAreNoUTF8AreMalformed() {
        for bytes: [UInt8] in [[0xFF], [0xC3, 0x28], [0xED, 0xA0, 0x80], [0xF5, 0x80, 0x80, 0x80]] {
            let text = Array("{\"a\": \"".utf8) + bytes + Array("\"}".utf8)
            guard case .malformedJSON? = fault({ _ = try DEISMultistepConfiguration(json: text) }) else {
                Issue.record("\(bytes) were taken")
                continue
            }
        }
        guard case .malformedJSON? = fault({ _ = try DEISMultistepConfiguration(json: [0, 1, 2, 254, 255]) }) else {
            Issue.record("a binary file was taken")
            return
        }
    }

    @Test func everyBeginningOfAFileIsMalformed() throws {
        let text = Array(DEISMultistepConfiguration().jsonText.utf8)
        let complete = text.count - 1  // all but the final newline
        for length in 0..<complete {
            guard case .malformedJSON? = fault({ _ = try DEISMultistepConfiguration(json: Array(text[..<length])) }) else {
                Issue.record("the first \(length) bytes were taken")
                continue
            }
        }
        #expect(throws: Never.self) { _ = try DEISMultistepConfiguration(json: Array(text[..<complete])) }
    }

    /// A damaged configuration is read or refused, and never crashes.
    @Test func damagedFilesAreReadOrRefused() {
        var generator = SeededGenerator("damaged files")
        let text = Array(DEISMultistepConfiguration().jsonText.utf8)
        let interesting = Array("{}[]\",:\\u-+.eE0129 \n\u{0}\u{7F}tfnIN".utf8) + [0x80, 0xC0, 0xEF, 0xFF]
        for _ in 0..<TestDraws.count(1500) {
            var damaged = text
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                let place = Int.random(in: 0..<damaged.count, using: &generator)
                switch Int.random(in: 0..<3, using: &generator) {
                case 0: damaged[place] = interesting.randomElement(using: &generator)!
                case 1: damaged.remove(at: place)
                default: damaged.insert(interesting.randomElement(using: &generator)!, at: place)
                }
            }
            // `fault` records anything but a SchedulerError.
            guard fault({ _ = try DEISMultistepConfiguration(json: damaged) }) == nil else { continue }
            let taken = try? DEISMultistepConfiguration(json: damaged)
            #expect(throws: Never.self) { try taken?.validate() }
        }
    }

    @Test(arguments: [("[", 10_000), ("{\"a\":", 10_000), ("[{\"a\":", 1_000_000)])
    func deepNestingIsRefused(bracket: String, depth: Int) {
        guard
            case .malformedJSON(1, _, let reason)? = fault({
                _ = try DEISMultistepConfiguration(json: String(repeating: bracket, count: depth))
            })
        else {
            Issue.record("taken")
            return
        }
        #expect(reason.contains("nested deeper than 64"))
    }

    @Test func nestingWithinTheLimitIsKept() throws {
        let text = "{\"a\": " + String(repeating: "[", count: 60) + String(repeating: "]", count: 60) + "}"
        #expect(try DEISMultistepConfiguration(json: text).unusedKeys == ["a"])
    }

    // MARK: Files

    func expectInaccessible(
        _ path: String, reason expected: String, sourceLocation: SourceLocation = #_sourceLocation, _ operation: () throws -> Void
    ) {
        guard case .inaccessibleFile(let actual, let reason)? = fault(operation) else {
            Issue.record("\(path): \(String(describing: fault(operation)))", sourceLocation: sourceLocation)
            return
        }
        #expect(actual == path && reason.contains(expected), sourceLocation: sourceLocation)
    }

    @Test func aMissingFileIsNamed() throws {
        let folder = try TemporaryFolder()
        for path in ["\(folder.path)/none.json", "\(folder.path)/none/scheduler_config.json", ""] {
            expectInaccessible(path, reason: "No such file") { _ = try DEISMultistepConfiguration(contentsOf: path) }
        }
    }

    @Test func aFolderWithoutAConfigurationIsNamed() throws {
        let folder = try TemporaryFolder()
        try folder.write("{}", to: "other/model.json")
        expectInaccessible(folder.path, reason: "scheduler_config.json") {
            _ = try DEISMultistepConfiguration(contentsOf: folder.path)
        }
        expectInaccessible(folder.path, reason: "its folder scheduler") {
            _ = try DEISMultistepConfiguration(contentsOf: folder.path, subfolder: "scheduler")
        }
    }

    @Test func aFolderOfTheFilesNameIsNoFile() throws {
        let folder = try TemporaryFolder()
        try folder.write("{}", to: "scheduler_config.json/inside")
        expectInaccessible(folder.path, reason: "no scheduler_config.json") {
            _ = try DEISMultistepConfiguration(contentsOf: folder.path)
        }
    }

    @Test func anUnreadableFileIsNamed() throws {
        let folder = try TemporaryFolder()
        let file = try folder.write("{}", to: "scheduler_config.json")
        chmod(file, 0)
        try withoutRootsRights {
            expectInaccessible(file, reason: "Permission denied") { _ = try DEISMultistepConfiguration(contentsOf: file) }
        }
    }

    /// Root may read everything. On Linux this thread gives up root's file rights (setfsuid(2)) without affecting other threads.
    private func withoutRootsRights(_ body: () throws -> Void) throws {
        #if os(Linux)
            typealias SetFileSystemUser = @convention(c) (uid_t) -> CInt
            let symbol = try #require(dlsym(dlopen(nil, RTLD_NOW), "setfsuid"))
            let setFileSystemUser = unsafeBitCast(symbol, to: SetFileSystemUser.self)
            if geteuid() == 0 { _ = setFileSystemUser(65534) }
            defer { _ = setFileSystemUser(geteuid()) }
        #endif
        try body()
    }

    @Test func aHugeFileIsNotRead() throws {
        let folder = try TemporaryFolder()
        let file = try folder.write("{", to: "scheduler_config.json")
        #expect(truncate(file, 1 << 30) == 0)
        expectInaccessible(file, reason: "1073741824 bytes") { _ = try DEISMultistepConfiguration(contentsOf: folder.path) }
    }

    @Test func anEndlessFileIsNotReadToItsEnd() {
        expectInaccessible("/dev/zero", reason: "more than") { _ = try DEISMultistepConfiguration(contentsOf: "/dev/zero") }
    }

    @Test func savingToAFileOrAMissingPlaceWritesNothing() throws {
        let folder = try TemporaryFolder()
        let file = try folder.write("mine", to: "occupied")
        expectInaccessible(file, reason: "not a folder") { try DEISMultistepConfiguration().save(toDirectory: file) }
        expectInaccessible("\(file)/inside", reason: "Not a directory") {
            try DEISMultistepConfiguration().save(toDirectory: "\(file)/inside")
        }
        expectInaccessible("", reason: "No such file") { try DEISMultistepConfiguration().save(toDirectory: "") }
        #expect(try folder.names == ["occupied"])
        #expect(try folder.read("occupied") == "mine")
    }

    @Test func savingThatFailsLeavesTheOldFileAndNoPart() throws {
        let folder = try TemporaryFolder()
        try folder.write("x", to: "scheduler_config.json/a folder is in the way")
        #expect(fault { try DEISMultistepConfiguration().save(toDirectory: folder.path) } != nil)
        #expect(try folder.names == ["scheduler_config.json"])
    }

    // MARK: The catalog

    @Test func anUnknownClassIsAnsweredWithTheKnownOnes() throws {
        guard
            case .unsupportedScheduler("EulerScheduler", let supported, nil)? = fault({
                _ = try SchedulerCatalog.makeScheduler(json: #"{"_class_name": "EulerScheduler"}"#)
            })
        else {
            Issue.record("taken")
            return
        }
        #expect(supported == SchedulerCatalog.supportedClassNames)
        #expect(supported.contains("DEISMultistepScheduler") && supported == supported.sorted())
        #expect(SchedulerError.unsupportedScheduler(name: "X", supported: ["A", "B"]).description.contains("A, B"))
    }

    @Test(arguments: [
        ("AmusedScheduler", "it steps tokens"), ("BlockRefinementScheduler", "it steps tokens"),
        ("ConsistencyDecoderScheduler", "ConsistencyDecoderVAE"), ("DiscreteDDIMScheduler", "it steps tokens"),
        ("EntropyBoundScheduler", "it steps tokens"),
        ("RFD4ProteinaScheduler", "multiply by a mask"),
        ("RePaintScheduler", "blend two samples by a mask"),
        ("ScoreSdeVpScheduler", "no step"), ("VQDiffusionScheduler", "it steps tokens"),
    ])
    func aClassThatCanHaveNoPlanIsAnsweredWithTheReason(_ name: String, _ reason: String) {
        let error = fault { _ = try SchedulerCatalog.makeScheduler(json: #"{"_class_name": "\#(name)"}"#) }
        let text = error?.description ?? ""
        #expect(text.contains("\(name) is not supported: ") && text.contains(reason), "\(text)")
        #expect(!text.contains("DDIMScheduler,"), "\(text)")
    }

    /// Reasons name only supported classes, and a refused class isn't supported.
    @Test func reasonsNameSupportedClasses() {
        let supported = Set(SchedulerCatalog.supportedClassNames)
        #expect(supported.isDisjoint(with: SchedulerCatalog.refusals.keys))
        for reason in SchedulerCatalog.refusals.values {
            let words = reason.split { !$0.isLetter && !$0.isNumber }.filter { $0.hasSuffix("Scheduler") }
            #expect(words.allSatisfy { supported.contains(String($0)) }, "\(reason)")
        }
    }

    @Test(arguments: [("{}", "missing"), (#"{"_class_name": 3}"#, "3"), (#"{"_class_name": null}"#, "null")])
    func aClassIsNeeded(json: String, value: String) {
        expectInvalid("_class_name", value, allowed: "DEISMultistepScheduler") {
            _ = try SchedulerCatalog.makeScheduler(json: json)
        }
    }

    @Test func theCatalogPassesOnWhatTheConfigurationSays() {
        expectInvalid("solver_order", "5", allowed: "1, 2, 3 or 4") {
            _ = try SchedulerCatalog.makeScheduler(json: #"{"_class_name": "DEISMultistepScheduler", "solver_order": 5}"#)
        }
        expectInvalid("solver_order", "6", allowed: "1, 2, 3 or 4") {
            _ = try SchedulerCatalog.makeScheduler(
                json: #"{"_class_name": "DEISMultistepScheduler"}"#, overrides: ["solver_order": 6])
        }
    }
}

/// Requests without a plan.
@Suite struct InvalidRequestTests {
    @Test(arguments: [0, -1, Int.min, 100_001, Int.max]) func stepCountsOutOfRange(count: Int) throws {
        for grid in GridChoice.allCases {
            var scheduler = try makeDEIS { grid.apply(to: &$0) }
            expectInvalid("number of steps", "\(count)", allowed: "from 1 to 100000") { try scheduler.setTimesteps(count) }
        }
    }

    @Test func muWithoutDynamicShifting() throws {
        var scheduler = try makeDEIS { $0.useFlowSigmas = true }
        expectInvalid("mu", "0.5", allowed: "use_dynamic_shifting") { try scheduler.setTimesteps(5, mu: 0.5) }
        #expect(throws: Never.self) { try scheduler.setTimesteps(5, mu: nil) }
    }

    @Test(arguments: [Double.nan, .infinity, -.infinity, 81, -1000]) func muOutOfRange(mu: Double) throws {
        let scheduler = try makeDEIS {
            $0.useFlowSigmas = true
            $0.useDynamicShifting = true
        }
        expectInvalid("mu", "\(mu)", allowed: "-80 to 80") { _ = try scheduler.plan(.count(5, mu: mu)) }
    }

    /// e^80 would put every level at 1, without any signal.
    @Test func shiftsThatLeaveNoSignalAreRefused() throws {
        let scheduler = try makeDEIS {
            $0.useFlowSigmas = true
            $0.useDynamicShifting = true
        }
        expectInvalid("sigmas[0]", "1.0", allowed: "from 0 to less than 1") { _ = try scheduler.plan(.count(5, mu: 80)) }
    }

    @Test(
        arguments: [
            ([], "number of timesteps", "0", "from 1"), ([999, 999], "timesteps[1]", "999.0", "less than the one before, 999.0"),
            ([10, 20], "timesteps[1]", "20.0", "less than the one before"), ([1000], "timesteps[0]", "1000.0", "from 0 to 999"),
            ([5, -1], "timesteps[1]", "-1.0", "from 0 to 999"), ([.nan], "timesteps[0]", "nan", "from 0 to 999"),
            ([.infinity, 3], "timesteps[0]", "inf", "from 0 to 999"),
        ] as [([Double], String, String, String)])
    func customTimesteps(_ values: [Double], key: String, value: String, allowed: String) throws {
        expectInvalid(key, value, allowed: allowed) { _ = try makeDEIS().plan(.timesteps(values)) }
    }

    @Test(
        arguments: [
            ([], "number of sigmas", "0", "from 1"), ([2, 2], "sigmas[1]", "2.0", "less than the one before, 2.0"),
            ([1, 3], "sigmas[1]", "3.0", "less than the one before"), ([1, 0], "sigmas[1]", "0.0", "greater than 0"),
            ([-1], "sigmas[0]", "-1.0", "greater than 0"), ([.nan], "sigmas[0]", "nan", "greater than 0"),
            ([.infinity], "sigmas[0]", "inf", "greater than 0"), ([1e39], "sigmas[0]", "1e+39", "greater than 0"),
        ] as [([Double], String, String, String)])
    func customSigmas(_ values: [Double], key: String, value: String, allowed: String) throws {
        expectInvalid(key, value, allowed: allowed) { _ = try makeDEIS().plan(.sigmas(values)) }
    }

    @Test func customFlowSigmasStayBelowOne() throws {
        let scheduler = try makeDEIS { $0.useFlowSigmas = true }
        expectInvalid("sigmas[0]", "1.0", allowed: "less than 1") { _ = try scheduler.plan(.sigmas([1, 0.5])) }
        #expect(throws: Never.self) { _ = try scheduler.plan(.sigmas([0.999, 0.5])) }
    }

    /// Levels that are equal in float32 count as repeated; levels at the ends of float32 have finite coefficients or are refused.
    @Test(arguments: [[1e38, 1, 1e-38], [2, 2 - 1e-12, 1], [1, 1e-60], [3e38, 1e-45], [1e-10, 1e-20, 1e-30]] as [[Double]])
    func customSigmasAtTheEndsOfFloat32(_ sigmas: [Double]) throws {
        let scheduler = try makeDEIS { $0.solverOrder = 3 }
        var sample: [Double] = []
        let error = fault { sample = try GaussianProblem().run(scheduler.plan(.sigmas(sigmas))) }
        #expect(error != nil || sample.allFinite, "\(sample)")
    }

    /// A failed request leaves a run in progress unchanged.
    @Test func aRefusedRequestLeavesTheRunAsItWas() throws {
        var scheduler = try makeDEIS { $0.solverOrder = 3 }
        try scheduler.setTimesteps(10)
        let expected = bits(try SamplingSession.finalSample(of: scheduler.plan(.count(10))))
        var sample = goldenStart
        try scheduler.session?.run(&sample, steps: 5)
        #expect(fault { try scheduler.setTimesteps(0) } != nil)
        #expect(fault { try scheduler.setTimesteps(5, mu: 1) } != nil)
        #expect(fault { try scheduler.setTimesteps(.timesteps([1, 2])) } != nil)
        #expect(fault { try scheduler.setBeginIndex(10) } != nil)
        #expect(scheduler.stepIndex == 5)
        try scheduler.session?.run(&sample)
        #expect(bits(sample) == expected)
    }

    @Test func beginIndicesOutOfRange() throws {
        var scheduler = try makeDEIS()
        #expect(fault { try scheduler.setBeginIndex(0) } == .timestepsNotSet)
        try scheduler.setTimesteps(4)
        for index in [-1, 4, Int.max, Int.min] {
            expectInvalid("begin index", "\(index)", allowed: "from 0 to 3") { try scheduler.setBeginIndex(index) }
        }
    }

    @Test func plansOfWrongShape() throws {
        let grid = TimestepGrid(timesteps: [1, 0], sigmas: [2, 1, 0.5], process: .variancePreserving)
        let row = PlanRow(prediction: .init(), nextSample: .init(sample: 1))
        func plan(
            _ rows: [[PlanRow]], slotCount: Int = 0, warmUp: Int = 0, steps: [Int] = [], inputScales: [Double] = []
        ) throws {
            _ = try SamplingPlan(
                grid: grid, inputScales: inputScales, slotCount: slotCount, warmUp: warmUp, steps: steps, rows: rows)
        }
        #expect(throws: Never.self) { try plan([[row], [row]]) }
        expectInvalid("number of rows", "1", allowed: "2") { try plan([[row]]) }
        expectInvalid("number of rows of evaluation 1", "2", allowed: "1") { try plan([[row], [row, row]]) }
        expectInvalid("number of rows of evaluation 1", "1", allowed: "2") { try plan([[row], [row]], warmUp: 3) }
        expectInvalid("number of slots", "7", allowed: "from 0 to 6") { try plan([[row], [row]], slotCount: 7) }
        expectInvalid("number of slots", "-1", allowed: "from 0 to 6") { try plan([[row], [row]], slotCount: -1) }
        expectInvalid("warm-up", "17", allowed: "from 0 to 16") { try plan([[row], [row]], warmUp: 17) }
        expectInvalid("number of step numbers", "1", allowed: "2") { try plan([[row], [row]], steps: [0]) }
        expectInvalid("step number of evaluation 0", "1", allowed: "0") { try plan([[row], [row]], steps: [1, 1]) }
        expectInvalid("step number of evaluation 1", "2", allowed: "0 or 1") { try plan([[row], [row]], steps: [0, 2]) }
        expectInvalid("number of input scales", "1", allowed: "2") { try plan([[row], [row]], inputScales: [1]) }
        for scale in [0, -1, .nan, .infinity] as [Double] {
            expectInvalid("input scale of evaluation 1", "\(scale)", allowed: "greater than 0") {
                try plan([[row], [row]], inputScales: [1, scale])
            }
        }
        let infinite = PlanRow(prediction: .init(), nextSample: .init(noise: .infinity))
        #expect(fault { try plan([[row], [infinite]]) } == .unrepresentablePlan(step: 1))
        func storing(_ slots: Int...) -> PlanRow {
            PlanRow(
                prediction: .init(), nextSample: .init(sample: 1),
                stores: slots.map { .init(slot: $0, value: .init(modelOutput: 1)) })
        }
        #expect(throws: Never.self) { try plan([[storing(0, 1)], [row]], slotCount: 2) }
        expectInvalid("number of stores of evaluation 1", "3", allowed: "at most 2") {
            try plan([[row], [storing(0, 1, 2)]], slotCount: 3)
        }
        expectInvalid("slot that evaluation 0 stores", "1", allowed: "1 slots") { try plan([[storing(1)], [row]], slotCount: 1) }
        expectInvalid("slot that evaluation 0 stores", "-1", allowed: "1 slots") { try plan([[storing(-1)], [row]], slotCount: 1) }
        expectInvalid("slots that evaluation 1 stores", "the same", allowed: "different") {
            try plan([[row], [storing(1, 1)]], slotCount: 2)
        }
        #expect(storing(1, 0) == storing(0, 1))
        var reversed = storing(0, 1)
        reversed.stores.reverse()
        expectInvalid("slots that evaluation 1 stores", "in descending order", allowed: "in ascending order") {
            try plan([[row], [reversed]], slotCount: 2)
        }
        expectInvalid("slot that evaluation 0 reads", "0", allowed: "0 slots") {
            try plan([[PlanRow(prediction: .init(), nextSample: .init(slots: [1]))], [row]])
        }
        for prediction in [Combination(prediction: 1), Combination(slots: [1])] {
            expectInvalid("prediction of evaluation 0", "a combination of slots or of itself", allowed: "model output") {
                try plan([[PlanRow(prediction: prediction, nextSample: .init())], [row]], slotCount: 1)
            }
        }
        for draws in [-1, 3] {
            expectInvalid("number of noise draws of evaluation 0", "\(draws)", allowed: "from 0 to 2") {
                try plan([[PlanRow(prediction: .init(), nextSample: .init(), drawCount: draws)], [row]])
            }
        }
        expectInvalid("number of noise draws of evaluation 0", "0", allowed: "at least 1") {
            try plan([[PlanRow(prediction: .init(), nextSample: .init(noise: 1), drawCount: 0)], [row]])
        }
    }

    /// A row that reads a slot before any row has stored to it would read unwritten memory.
    @Test func rowsThatReadWhatNobodyStored() throws {
        let grid = TimestepGrid(timesteps: [2, 1, 0], sigmas: [3, 2, 1, 0.5], process: .variancePreserving)
        let row = PlanRow(prediction: .init(), nextSample: .init(sample: 1))
        let storing = PlanRow(
            prediction: .init(), nextSample: .init(sample: 1), stores: [.init(slot: 0, value: .init(modelOutput: 1))])
        let reading = PlanRow(
            prediction: .init(), nextSample: .init(sample: 1, slots: [1]), stores: [.init(slot: 0, value: .init(modelOutput: 1))])
        func plan(_ rows: [[PlanRow]], warmUp: Int, steps: [Int] = []) throws {
            _ = try SamplingPlan(grid: grid, slotCount: 1, warmUp: warmUp, steps: steps, rows: rows)
        }
        #expect(throws: Never.self) { try plan([[storing], [storing, reading], [storing, reading]], warmUp: 1) }
        expectInvalid("slot 0 in evaluation 0 at the age 0", "read", allowed: "stored") {
            try plan([[reading], [storing, reading], [storing, reading]], warmUp: 1)
        }
        expectInvalid("slot 0 in evaluation 1 at the age 0", "read", allowed: "stored") {
            try plan([[storing], [reading, reading], [storing, reading]], warmUp: 1)
        }
        // The reading row is reached both from a row that stores and from one that doesn't.
        expectInvalid("slot 0 in evaluation 2 at the age 1", "read", allowed: "stored") {
            try plan([[storing], [row, storing], [storing, reading]], warmUp: 1)
        }
        // A step's second evaluation always follows the first.
        #expect(throws: Never.self) { try plan([[storing], [reading], [row]], warmUp: 0, steps: [0, 0, 1]) }
        expectInvalid("slot 0 in evaluation 2 at the age 0", "read", allowed: "stored") {
            try plan([[storing], [reading], [reading]], warmUp: 0, steps: [0, 0, 1])
        }
    }

    /// Clamps that the kernels refuse are refused when a plan is made, in code and in coded plans.
    @Test(arguments: [
        PredictionClamp.range(0), .range(-1), .range(.nan), .dynamicThreshold(ratio: 1.5, maximum: 1),
        .dynamicThreshold(ratio: .nan, maximum: 1), .dynamicThreshold(ratio: 0.5, maximum: 0),
        .dynamicThreshold(ratio: 0.5, maximum: .nan),
    ])
    func clampsOutOfRange(_ clamp: PredictionClamp) {
        let grid = TimestepGrid(timesteps: [1], sigmas: [2, 1], process: .variancePreserving)
        let row = PlanRow(prediction: .init(sample: 1), nextSample: .init(prediction: 1))
        #expect(fault { _ = try SamplingPlan(grid: grid, clamp: clamp, rows: [[row]]) } != nil)
    }

    /// A stranger's coded plan is refused or sound: it can't have fewer noise levels than its steps need.
    @Test func codedPlansOfWrongShape() throws {
        let text = String(decoding: try JSONEncoder().encode(makeDEIS().plan(.count(2))), as: UTF8.self)
        #expect(throws: Never.self) { _ = try JSONDecoder().decode(SamplingPlan.self, from: Data(text.utf8)) }
        for (part, replacement) in [
            ("\"timestep\":999", "\"timestep\":true"), ("\"sigmas\":[", "\"sigmas\":[1,"), ("\"version\":1", "\"version\":2"),
            ("\"slots\":1", "\"slots\":0"), ("\"slots\":1", "\"slots\":70000"), ("\"warm_up\":1", "\"warm_up\":0"),
            ("\"slot_0\":", "\"slot_9\":"),
        ] {
            #expect(text.contains(part), "\(part)")
            let changed = text.replacingOccurrences(of: part, with: replacement)
            #expect(throws: (any Error).self, "\(replacement)") {
                _ = try JSONDecoder().decode(SamplingPlan.self, from: Data(changed.utf8))
            }
        }
    }
}

/// Steps that are refused: the sample, the history and the index don't change, and the next correct step is unaffected.
@Suite struct InvalidStepTests {
    typealias Failure<State> = (name: String, expected: SchedulerError, attempt: (inout State, inout [Float]) throws -> Void)

    static let n = GoldenProblem.elementCount
    static let ones = [Float](repeating: 1, count: n)

    static func sessionFailures(midRun: Bool) -> [Failure<SamplingSession>] {
        var failures: [Failure<SamplingSession>] = [
            (
                "short model output", .wrongElementCount(argument: "modelOutput", count: 23, expected: "24, like the sample"),
                { try $0.step(modelOutput: Array(ones[1...]), sample: &$1) }
            ),
            (
                "long model output", .wrongElementCount(argument: "modelOutput", count: 25, expected: "24, like the sample"),
                { try $0.step(modelOutput: ones + [1], sample: &$1) }
            ),
            (
                "no model output", .wrongElementCount(argument: "modelOutput", count: 0, expected: "24, like the sample"),
                { try $0.step(modelOutput: [], sample: &$1) }
            ),
            (
                "short model output, returning",
                .wrongElementCount(argument: "modelOutput", count: 3, expected: "24, like the sample"),
                { _ = try $0.step(modelOutput: [1, 2, 3], sample: $1, predictingOriginalSample: true) as SchedulerOutput }
            ),
            (
                "short noise", .wrongElementCount(argument: "noise", count: 2, expected: "24, like the sample"),
                { try $0.step(modelOutput: ones, sample: &$1, noise: [1, 2]) }
            ),
            (
                "batch of 5", .wrongElementCount(argument: "sample", count: 24, expected: "a multiple of the batch size 5"),
                { try $0.step(modelOutput: ones, sample: &$1, batchSize: 5) }
            ),
            (
                "batch of 0", .wrongElementCount(argument: "sample", count: 24, expected: "a multiple of the batch size 0"),
                { try $0.step(modelOutput: ones, sample: &$1, batchSize: 0) }
            ),
            (
                "batch of -1", .wrongElementCount(argument: "sample", count: 24, expected: "a multiple of the batch size -1"),
                { try $0.step(modelOutput: ones, sample: &$1, batchSize: -1) }
            ),
            (
                "batch of 48", .wrongElementCount(argument: "sample", count: 24, expected: "a multiple of the batch size 48"),
                { try $0.step(modelOutput: ones, sample: &$1, batchSize: 48) }
            ),
        ]
        if midRun {
            failures += [
                (
                    "other element type", .wrongElementType(argument: "sample", type: "float64", expected: "float32"),
                    { session, _ in
                        var sample = [Double](repeating: 1, count: n)
                        try session.step(modelOutput: sample, sample: &sample)
                    }
                ),
                (
                    "shorter sample", .wrongElementCount(argument: "sample", count: 12, expected: "24, as at the first step"),
                    { session, _ in
                        var sample = Array(ones[..<12])
                        try session.step(modelOutput: sample, sample: &sample)
                    }
                ),
                (
                    "empty sample", .wrongElementCount(argument: "sample", count: 0, expected: "24, as at the first step"),
                    { session, _ in
                        var sample: [Float] = []
                        try session.step(modelOutput: sample, sample: &sample)
                    }
                ),
            ]
        }
        return failures
    }

    @Test(arguments: [false, true], [0, 1, 2, 5]) func sessionsStayUsable(thresholding: Bool, after steps: Int) throws {
        let plan = try RestartTests.plan(thresholding: thresholding)
        let expected = bits(try SamplingSession.finalSample(of: plan))
        for failure in Self.sessionFailures(midRun: steps > 0) {
            var session = SamplingSession(plan: plan), sample = goldenStart
            try session.run(&sample, steps: steps)
            let before = bits(sample)
            #expect(fault { try failure.attempt(&session, &sample) } == failure.expected, "\(failure.name)")
            #expect(bits(sample) == before, "\(failure.name)")
            #expect(session.stepIndex == steps && session.hasBegun == (steps > 0), "\(failure.name)")
            try session.run(&sample)
            #expect(bits(sample) == expected, "\(failure.name)")
        }
    }

    @Test func noSessionStepsPastItsEnd() throws {
        var session = SamplingSession(plan: try RestartTests.plan(count: 3)), sample = goldenStart
        try session.run(&sample)
        let end = bits(sample)
        for _ in 0..<2 {
            #expect(fault { try session.step(modelOutput: Self.ones, sample: &sample) } == .stepPastEnd(stepCount: 3))
            let returning = fault { _ = try session.step(modelOutput: Self.ones, sample: sample) as SchedulerOutput }
            #expect(returning == .stepPastEnd(stepCount: 3))
        }
        #expect(bits(sample) == end && session.stepIndex == 3)
        session.reset()
        sample = goldenStart
        try session.run(&sample)
        #expect(bits(sample) == end)
    }

    static func schedulerFailures(midRun: Bool) -> [Failure<DEISMultistepScheduler>] {
        let expected = midRun ? "700, the timestep of step 3" : "one of the plan's 10 timesteps, from 999 to 100"
        func unknown(_ timestep: Double) -> Failure<DEISMultistepScheduler> {
            (
                "timestep \(timestep)", .unknownTimestep(timestep, expected: expected),
                { try $0.step(modelOutput: ones, timestep: timestep, sample: &$1) }
            )
        }
        let now: Double = midRun ? 700 : 999
        var failures = [unknown(998), unknown(-1), unknown(1e300), unknown(999.5), unknown(.infinity)]
        // A run in progress accepts only its next timestep, even among the plan's.
        if midRun { failures += [unknown(999), unknown(799), unknown(599)] }
        failures += [
            (
                "short model output", .wrongElementCount(argument: "modelOutput", count: 1, expected: "24, like the sample"),
                { try $0.step(modelOutput: [1], timestep: now, sample: &$1) }
            ),
            (
                "short model output, returning",
                .wrongElementCount(argument: "modelOutput", count: 1, expected: "24, like the sample"),
                { _ = try $0.step(modelOutput: [1], timestep: now, sample: $1, predictingOriginalSample: true) as SchedulerOutput }
            ),
            (
                "batch of 7", .wrongElementCount(argument: "sample", count: 24, expected: "a multiple of the batch size 7"),
                { try $0.step(modelOutput: ones, timestep: now, sample: &$1, batchSize: 7) }
            ),
        ]
        if !midRun {
            failures.append(
                (
                    "short model output at a later start",
                    .wrongElementCount(argument: "modelOutput", count: 1, expected: "24, like the sample"),
                    { try $0.step(modelOutput: [1], timestep: 500, sample: &$1) }
                ))
        }
        return failures
    }

    @Test(arguments: [0, 3]) func schedulersStayUsable(after steps: Int) throws {
        var fresh = try DEISMultistepScheduler(.init(json: #"{"timestep_spacing": "linspace", "solver_order": 3}"#))
        try fresh.setTimesteps(.timesteps([999, 900, 800, 700, 600, 500, 400, 300, 200, 100]))
        let expected = bits(try SamplingSession.finalSample(of: try #require(fresh.plan)))
        for failure in Self.schedulerFailures(midRun: steps > 0) {
            var scheduler = fresh, sample = goldenStart
            for timestep in fresh.timesteps[..<steps] {
                try scheduler.step(
                    modelOutput: goldenOutput(sample, timestep: timestep), timestep: timestep, sample: &sample, batchSize: 2)
            }
            let before = bits(sample)
            #expect(fault { try failure.attempt(&scheduler, &sample) } == failure.expected, "\(failure.name)")
            #expect(bits(sample) == before && scheduler.stepIndex == steps, "\(failure.name)")
            for timestep in fresh.timesteps[steps...] {
                try scheduler.step(
                    modelOutput: goldenOutput(sample, timestep: timestep), timestep: timestep, sample: &sample, batchSize: 2)
            }
            #expect(bits(sample) == expected, "\(failure.name)")
            let past = fault { try scheduler.step(modelOutput: Self.ones, timestep: 100, sample: &sample) }
            #expect(past == .stepPastEnd(stepCount: 10))
        }
    }

    @Test func noStepBeforeSetTimesteps() throws {
        var scheduler = try makeDEIS(), sample = goldenStart
        #expect(fault { try scheduler.step(modelOutput: Self.ones, timestep: 999, sample: &sample) } == .timestepsNotSet)
        #expect(fault { _ = try scheduler.convertModelOutput(Self.ones, sample: sample) } == .timestepsNotSet)
        #expect(fault { _ = try scheduler.firstOrderUpdate(modelOutput: Self.ones, sample: sample) } == .timestepsNotSet)
        #expect(bits(sample) == bits(goldenStart) && scheduler.stepIndex == nil && scheduler.plan == nil)
        #expect(SchedulerError.timestepsNotSet.description.contains("setTimesteps"))
    }

    @Test func noiseThatCannotBeAdded() throws {
        var scheduler = try makeDEIS()
        for planned in [false, true] {
            if planned { try scheduler.setTimesteps(5) }
            let failures: [(SchedulerError?, [Float], [Float], [Double])] = [
                (.wrongElementCount(argument: "noise", count: 1, expected: "24, like the sample"), goldenStart, [1], [999]),
                (
                    .wrongElementCount(argument: "sample", count: 24, expected: "a multiple of the number of timesteps, 5"),
                    goldenStart, Self.ones, [999, 799, 599, 400, 200]
                ),
                (
                    .wrongElementCount(argument: "sample", count: 24, expected: "a multiple of the number of timesteps, 0"),
                    goldenStart, Self.ones, []
                ),
                (nil, goldenStart, Self.ones, [1000]), (nil, goldenStart, Self.ones, [999, -1]),
            ]
            for (expected, data, noise, timesteps) in failures {
                var sample = data, span = sample.mutableSpan
                let error = fault { try scheduler.addNoise(noise.span, to: &span, timesteps: timesteps) }
                if let expected {
                    #expect(error == expected)
                } else if case .unknownTimestep? = error {
                } else {
                    Issue.record("timesteps \(timesteps): \(String(describing: error))")
                }
                #expect(bits(sample) == bits(data), "nothing is written")
            }
        }
    }

    @Test func updatesThatLackOutputs() throws {
        var scheduler = try makeDEIS { $0.solverOrder = 3 }
        try scheduler.setTimesteps(5)
        let e = Self.ones, x = goldenStart
        expectInvalid("number of model outputs", "1", allowed: "at least 2") {
            _ = try scheduler.secondOrderUpdate(modelOutputs: [e], sample: x)
        }
        expectInvalid("number of model outputs", "2", allowed: "at least 3") {
            _ = try scheduler.thirdOrderUpdate(modelOutputs: [e, e], sample: x)
        }
        expectInvalid("step index", "0", allowed: "at least 1") {
            _ = try scheduler.secondOrderUpdate(modelOutputs: [e, e], sample: x)
        }
        expectInvalid("step index", "0", allowed: "at least 2") {
            _ = try scheduler.thirdOrderUpdate(modelOutputs: [e, e, e], sample: x)
        }
        let short = SchedulerError.wrongElementCount(argument: "modelOutputs or noise", count: 1, expected: "24, like the sample")
        #expect(fault { _ = try scheduler.firstOrderUpdate(modelOutput: [1], sample: x) } == short)
        #expect(
            fault { _ = try scheduler.convertModelOutput([1], sample: x) }
                == .wrongElementCount(argument: "modelOutput", count: 1, expected: "24, like the sample"))
    }

    @Test func everyErrorDescribesItself() {
        let descriptions: [(SchedulerError, [String])] = [
            (.invalidValue(key: "k", value: "v", allowed: "a"), ["k", "v", "a"]),
            (.conflictingKeys(["k", "l"], reason: "r"), ["k", "l", "r"]),
            (.inaccessibleFile(path: "p", reason: "r"), ["p", "r"]),
            (.malformedJSON(line: 3, column: 5, reason: "r"), ["3", "5", "r"]),
            (.unknownTimestep(7, expected: "x"), ["7", "x"]),
            (.stepPastEnd(stepCount: 20), ["20"]),
            (.wrongElementCount(argument: "a", count: 3, expected: "5"), ["a", "3", "5"]),
            (.wrongElementType(argument: "a", type: "float64", expected: "float32"), ["a", "float64", "float32"]),
            (.missingNoise(step: 4), ["4", "noise"]),
            (.unrepresentablePlan(step: 9), ["9"]),
        ]
        for (error, words) in descriptions { for word in words { #expect(error.description.contains(word)) } }
    }
}

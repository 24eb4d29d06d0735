// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Foundation
import Testing

/// Another scheduler's configuration, with other defaults and keys than DEIS's.
struct NeighbourConfiguration: SchedulerConfiguration {
    static let className = "NeighbourScheduler"
    static let compatibleClassNames = ["DEISMultistepScheduler"]

    var numTrainTimesteps = 1000
    var timestepSpacing = TimestepSpacing.leading
    var predictionType = PredictionType.vPrediction
    var clipSample = true
    var rate: Double?
    var finalSigmasType = FinalSigmasType.zero
    var origin = ConfigurationOrigin()

    static var parameters: [ConfigurationParameter<Self>] {
        [
            .init("num_train_timesteps", \.numTrainTimesteps), .init("timestep_spacing", \.timestepSpacing),
            .init("prediction_type", \.predictionType), .init("clip_sample", \.clipSample), .init("rate", \.rate),
            .init("final_sigmas_type", \.finalSigmasType),
        ]
    }

    func validate() throws(SchedulerError) {
        if numTrainTimesteps < 1 {
            throw .invalidValue(key: "num_train_timesteps", value: "\(numTrainTimesteps)", allowed: "at least 1")
        }
    }
}

/// `scheduler_config.json` in both directions.
@Suite struct ConfigurationTests {
    /// The text that `DEISMultistepScheduler().save_config` of diffusers 0.42.1 writes, without `_diffusers_version`.
    static let defaultText = """
        {
          "_class_name": "DEISMultistepScheduler",
          "algorithm_type": "deis",
          "beta_end": 0.02,
          "beta_schedule": "linear",
          "beta_start": 0.0001,
          "dynamic_thresholding_ratio": 0.995,
          "flow_shift": 1.0,
          "lower_order_final": true,
          "num_train_timesteps": 1000,
          "prediction_type": "epsilon",
          "sample_max_value": 1.0,
          "solver_order": 2,
          "solver_type": "logrho",
          "steps_offset": 0,
          "thresholding": false,
          "time_shift_type": "exponential",
          "timestep_spacing": "linspace",
          "trained_betas": null,
          "use_beta_sigmas": false,
          "use_dynamic_shifting": false,
          "use_exponential_sigmas": false,
          "use_flow_sigmas": false,
          "use_karras_sigmas": false
        }

        """

    /// The text that `DDIMScheduler().save_config` writes.
    static let ddimText = """
        {
          "_class_name": "DDIMScheduler",
          "_diffusers_version": "0.42.1",
          "beta_end": 0.02,
          "beta_schedule": "linear",
          "beta_start": 0.0001,
          "clip_sample": true,
          "clip_sample_range": 1.0,
          "dynamic_thresholding_ratio": 0.995,
          "num_train_timesteps": 1000,
          "prediction_type": "epsilon",
          "rescale_betas_zero_snr": false,
          "sample_max_value": 1.0,
          "set_alpha_to_one": true,
          "steps_offset": 0,
          "thresholding": false,
          "timestep_spacing": "leading",
          "trained_betas": null
        }

        """

    // MARK: Defaults and values

    @Test func defaultsAreWrittenAsDiffusersWritesThem() throws {
        #expect(DEISMultistepConfiguration().jsonText == Self.defaultText)
        #expect(try DEISMultistepConfiguration(json: "{}").jsonText == Self.defaultText)
        #expect(try DEISMultistepConfiguration(json: Self.defaultText).jsonText == Self.defaultText)
    }

    @Test func everyKeyIsRead() throws {
        let text = """
            {"algorithm_type": "deis", "beta_end": 0.5, "beta_schedule": "scaled_linear", "beta_start": 0.25,
             "dynamic_thresholding_ratio": 0.75, "flow_shift": 3.5, "lower_order_final": false, "num_train_timesteps": 2,
             "prediction_type": "sample", "sample_max_value": 1.25, "solver_order": 3, "solver_type": "logrho",
             "steps_offset": 4, "thresholding": true, "time_shift_type": "exponential", "timestep_spacing": "trailing",
             "trained_betas": [0.125, 0.0625], "use_beta_sigmas": false, "use_dynamic_shifting": true,
             "use_exponential_sigmas": false, "use_flow_sigmas": false, "use_karras_sigmas": true}
            """
        let read = try DEISMultistepConfiguration(json: text)
        var expected = DEISMultistepConfiguration()
        (expected.betaEnd, expected.betaStart, expected.betaSchedule) = (0.5, 0.25, .scaledLinear)
        (expected.dynamicThresholdingRatio, expected.sampleMaxValue, expected.thresholding) = (0.75, 1.25, true)
        (expected.flowShift, expected.useDynamicShifting, expected.useKarrasSigmas) = (3.5, true, true)
        (expected.numTrainTimesteps, expected.trainedBetas) = (2, [0.125, 0.0625])
        (expected.predictionType, expected.solverOrder, expected.lowerOrderFinal) = (.sample, 3, false)
        (expected.stepsOffset, expected.timestepSpacing) = (4, .trailing)
        #expect(read.jsonText == expected.jsonText)
        #expect(read.origin.givenValues.count == 22 && read.unusedKeys.isEmpty)
        for grid in ["use_beta_sigmas", "use_exponential_sigmas", "use_flow_sigmas"] {
            let one = try DEISMultistepConfiguration(json: "{\"\(grid)\": true}")
            #expect([one.useBetaSigmas, one.useExponentialSigmas, one.useFlowSigmas].count { $0 } == 1)
        }
    }

    @Test func integersAreNumbersToo() throws {
        let read = try DEISMultistepConfiguration(
            json: #"{"beta_start": 0, "flow_shift": 3, "sample_max_value": 2e0, "beta_end": 2E-2}"#)
        #expect(read.betaStart == 0 && read.flowShift == 3 && read.sampleMaxValue == 2 && read.betaEnd == 0.02)
    }

    @Test(arguments: ["dpmsolver", "dpmsolver++", "deis"]) func algorithmsOfOtherSolversMeanDEIS(word: String) throws {
        let read = try DEISMultistepConfiguration(json: "{\"algorithm_type\": \"\(word)\"}")
        #expect(read.algorithmType == .deis && read.jsonText == Self.defaultText)
    }

    @Test(arguments: ["midpoint", "heun", "bh1", "bh2", "logrho"]) func solverTypesOfOtherSolversMeanLogRho(word: String) throws {
        let read = try DEISMultistepConfiguration(json: "{\"solver_type\": \"\(word)\"}")
        #expect(read.solverType == .logrho && read.jsonText == Self.defaultText)
    }

    @Test func theLastOfEqualKeysCounts() throws {
        #expect(try DEISMultistepConfiguration(json: #"{"solver_order": 1, "solver_order": 3}"#).solverOrder == 3)
    }

    @Test func aByteOrderMarkAndSpaceAreSkipped() throws {
        #expect(try DEISMultistepConfiguration(json: "\u{FEFF}\r\n\t {} \n").jsonText == Self.defaultText)
    }

    // MARK: Keys of others

    /// The bytes that diffusers writes for the same values.
    @Test func unknownKeysReturnAsTheyCame() throws {
        let others = #"""
              "Empty": {},
              "_private": "kept",
              "inf": -Infinity,
              "inf2": Infinity,
              "list": [],
              "n": [
                1,
                2.50,
                1e-3,
                -0.0,
                1E+22,
                123456789012345678901234567890,
                null,
                true
              ],
              "nan": NaN,
              "nested": {
                "a": [
                  {
                    "b": false
                  }
                ]
              },
              "note": "caf\u00e9 \ud83d\ude00 \"q\" \\ / \n\t\r\u007f\u2028 <>",
            """#
        let lines = Self.defaultText.split(separator: "\n", omittingEmptySubsequences: false)
        // Capitals and underscores come before small letters.
        let text = ([lines[0]] + sortedIn(lines, others)).joined(separator: "\n")
        let read = try DEISMultistepConfiguration(json: text)
        #expect(read.jsonText == text)
        #expect(read.unusedKeys == ["Empty", "inf", "inf2", "list", "n", "nan", "nested", "note"])
        #expect(try DEISMultistepConfiguration(json: read.jsonText) == read)
    }

    /// The members of two texts in the order of their keys.
    private func sortedIn(_ lines: [Substring], _ others: String) -> [Substring] {
        var members: [[Substring]] = []
        for line in others.split(separator: "\n") + lines[1..<(lines.count - 2)] {
            if line.hasPrefix("  \"") { members.append([line]) } else { members[members.count - 1].append(line) }
        }
        members.sort { Array($0[0].utf8).lexicographicallyPrecedes(Array($1[0].utf8)) }
        return members.flatMap { $0 } + lines.suffix(2)
    }

    /// Python writes these two as `\b` and `\f`.
    @Test func controlCharactersAreEscapedAsPythonDoes() throws {
        let text = try DEISMultistepConfiguration(json: #"{"note": "\b\f\u0001"}"#).jsonText
        let note = text.split(separator: "\n").first { $0.contains("note") }
        #expect(note == #"  "note": "\b\f\u0001","#)
    }

    @Test func keysThatDoNothingAreTold() throws {
        let read = try DEISMultistepConfiguration(json: Self.ddimText)
        #expect(read.unusedKeys == ["clip_sample", "clip_sample_range", "rescale_betas_zero_snr", "set_alpha_to_one"])
        #expect(try DEISMultistepConfiguration(json: #"{"solver_order": 3, "_x": 1, "sigma_max": 2.0}"#).unusedKeys == [])
    }

    @Test func aFileOfAnotherSchedulerGivesWhatItSays() throws {
        let read = try DEISMultistepConfiguration(json: Self.ddimText)
        #expect(read.timestepSpacing == .leading, "the file says so, whether it was a default there or not")
        #expect(read.jsonText.contains(#""_class_name": "DEISMultistepScheduler""#))
        #expect(read.jsonText.contains(#""_diffusers_version": "0.42.1""#))
        #expect(read.jsonText.contains(#""clip_sample": true"#))
    }

    // MARK: Hidden noise levels

    @Test(
        arguments: [
            ("use_karras_sigmas", [14.6000004, 3.18124199, 0.452392399, 0.0299999993], [727, 485, 131, 5]),
            ("use_exponential_sigmas", [14.6000004, 1.85613251, 0.23597452, 0.0299999993], [726, 381, 68, 5]),
            ("use_beta_sigmas", [14.6000004, 10.5872288, 4.04277182, 0.0299999993], [726, 681, 528, 5]),
        ] as [(String, [Double], [Double])])
    func hiddenSigmasBoundTheGrid(key: String, sigmas: [Double], timesteps: [Double]) throws {
        let text = "{\"_class_name\": \"EulerDiscreteScheduler\", \"sigma_min\": 0.03, \"sigma_max\": 14.6, \"\(key)\": true}"
        let scheduler = try DEISMultistepScheduler(.init(json: text))
        #expect(scheduler.configuration.sigmaMin == 0.03 && scheduler.configuration.sigmaMax == 14.6)
        let plan = try scheduler.plan(.count(4))
        #expect(plan.timesteps == timesteps)
        for (ours, theirs) in zip(plan.sigmas, sigmas + sigmas.suffix(1)) {
            #expect(abs(ours - theirs) <= Tolerance.sigma * theirs)
        }
    }

    @Test func hiddenSigmasCanBeNull() throws {
        let read = try DEISMultistepConfiguration(json: #"{"sigma_min": null, "sigma_max": null, "use_karras_sigmas": true}"#)
        #expect(read.sigmaMin == nil && read.sigmaMax == nil)
        let plain = try makeDEIS { $0.useKarrasSigmas = true }
        #expect(try DEISMultistepScheduler(read).plan(.count(5)) == plain.plan(.count(5)))
    }

    @Test func hiddenSigmasMeanNothingToPlainGrids() throws {
        let hidden = try DEISMultistepScheduler(.init(json: #"{"sigma_min": 0.5, "sigma_max": 2.0}"#))
        #expect(try hidden.plan(.count(5)) == makeDEIS().plan(.count(5)))
    }

    @Test func hiddenSigmasCanBeSet() throws {
        var configuration = DEISMultistepConfiguration()
        configuration.sigmaMax = 5
        #expect(configuration.jsonText.contains(#""sigma_max": 5.0"#))
        configuration.sigmaMax = nil
        #expect(configuration.jsonText == Self.defaultText)
    }

    // MARK: final_sigmas_type, a key of our own

    @Test func theFinalLevelOfAnotherSchedulersFileMeansNothing() throws {
        let read = try DEISMultistepConfiguration(json: #"{"final_sigmas_type": "zero"}"#)
        #expect(read.finalSigmasType == nil && read.unusedKeys == ["final_sigmas_type"])
        let scheduler = try DEISMultistepScheduler(read)
        #expect(try scheduler.plan(.count(5)).sigmas.last == scheduler.noiseSchedule.sigmas[0])
        #expect(read.jsonText.contains(#""final_sigmas_type": "zero""#))
        #expect(try DEISMultistepConfiguration(json: #"{"final_sigmas_type": "no such"}"#).finalSigmasType == nil)
    }

    @Test(arguments: ["final_sigmas_type", "diffusion_scheduling_final_sigmas_type"])
    func theOverrideSurvivesSavingAndLoading(key: String) throws {
        let folder = try TemporaryFolder()
        let overridden = try DEISMultistepConfiguration(
            json: #"{"final_sigmas_type": "sigma_min"}"#, overrides: [key: "zero"])
        #expect(overridden.finalSigmasType == .zero)
        try overridden.save(toDirectory: folder.path)
        let loaded = try DEISMultistepScheduler(contentsOf: folder.path)
        #expect(loaded.configuration.finalSigmasType == .zero)
        #expect(try loaded.plan(.count(5)).sigmas.last == 0)
        #expect(
            try folder.read("scheduler_config.json").contains(#""final_sigmas_type": "sigma_min""#), "the other scheduler's own")
        #expect(loaded.configuration.jsonText == overridden.jsonText)
    }

    @Test func theFinalLevelOfRepeatingGridsCanBeTheTrainingsLeast() throws {
        let scheduler = try makeDEIS {
            $0.useKarrasSigmas = true
            $0.sigmaMin = 0.5
            $0.finalSigmasType = .sigmaMin
        }
        #expect(try scheduler.plan(.count(5)).sigmas.suffix(2) == [0.5, scheduler.noiseSchedule.sigmas[0]])
    }

    // MARK: Conversion from another configuration

    @Test func whatIsMerelyADefaultThereIsNotTakenOver() throws {
        let deis = try DEISMultistepConfiguration(from: NeighbourConfiguration())
        #expect(deis.jsonText == Self.defaultText)
        #expect(deis.origin.givenValues.isEmpty)
    }

    @Test func whatWasGivenThereIsTakenOver() throws {
        var neighbour = NeighbourConfiguration()
        (neighbour.numTrainTimesteps, neighbour.predictionType, neighbour.rate) = (500, .sample, 0.5)
        let deis = try DEISMultistepConfiguration(from: neighbour)
        #expect(deis.numTrainTimesteps == 500 && deis.predictionType == .sample && deis.timestepSpacing == .linspace)
        #expect(Set(deis.origin.givenValues.keys) == ["num_train_timesteps", "prediction_type"])
        #expect(deis.unusedKeys == ["rate"])
    }

    /// diffusers also keeps an explicit value that equals the other class's default.
    @Test func whatAFileGaveIsTakenOverEvenIfItIsTheDefault() throws {
        let neighbour = try NeighbourConfiguration(json: #"{"timestep_spacing": "leading"}"#)
        #expect(try DEISMultistepConfiguration(from: neighbour).timestepSpacing == .leading)
    }

    @Test func overridesPrecedeBoth() throws {
        let neighbour = try NeighbourConfiguration(json: #"{"timestep_spacing": "leading", "prediction_type": "sample"}"#)
        let deis = try DEISMultistepConfiguration(
            from: neighbour, overrides: ["timestep_spacing": "trailing", "solver_order": 3, "mine": [1, nil, true]])
        #expect(deis.timestepSpacing == .trailing && deis.solverOrder == 3 && deis.predictionType == .sample)
        #expect(deis.unusedKeys == ["mine"])
        #expect(try DEISMultistepScheduler(from: neighbour, overrides: ["solver_order": 1]).solverOrder == 1)
    }

    @Test func thereAndBackIsLossless() throws {
        let text = """
            {"_class_name": "NeighbourScheduler", "_diffusers_version": "0.0", "clip_sample": false, "rate": 0.25,
             "num_train_timesteps": 321, "strange": [1.0, 2.00], "final_sigmas_type": "sigma_min"}
            """
        let neighbour = try NeighbourConfiguration(json: text)
        let deis = try DEISMultistepConfiguration(from: neighbour)
        #expect(deis.finalSigmasType == nil)
        let back = try NeighbourConfiguration(from: deis)
        #expect(back == neighbour)
        #expect(back.jsonText == neighbour.jsonText)
        let throughAFile = try NeighbourConfiguration(json: DEISMultistepConfiguration(json: text).jsonText)
        #expect(throughAFile.clipSample == false && throughAFile.rate == 0.25 && throughAFile.finalSigmasType == .sigmaMin)
    }

    @Test func anotherSchedulersSamePlanIsMade() throws {
        var original = try makeDEIS { ($0.solverOrder, $0.useKarrasSigmas) = (3, true) }
        let copy = try DEISMultistepScheduler(from: NeighbourConfiguration(from: original.configuration))
        #expect(try copy.plan(.count(7)) == original.plan(.count(7)))
        try original.setTimesteps(3)
        #expect(copy.plan == nil)
    }

    @Test func aKeyTakenOverIsCheckedHere() {
        expectInvalid("num_train_timesteps", "2000000", allowed: "from 1 to 1000000") {
            var neighbour = NeighbourConfiguration()
            neighbour.numTrainTimesteps = 2_000_000
            _ = try DEISMultistepConfiguration(from: neighbour)
        }
    }

    // MARK: Files

    @Test func savedConfigurationsLoad() throws {
        let folder = try TemporaryFolder()
        var configuration = DEISMultistepConfiguration()
        (configuration.solverOrder, configuration.trainedBetas, configuration.numTrainTimesteps) = (3, [0.1, 0.2], 2)
        configuration.origin.otherKeys["kept"] = ["a": [1.5, nil]]
        let path = "\(folder.path)/made/by saving"
        try FileManager.default.createDirectory(atPath: "\(folder.path)/made", withIntermediateDirectories: false)
        try configuration.save(toDirectory: path)
        #expect(try folder.read("made/by saving/scheduler_config.json") == configuration.jsonText)
        for loaded in try [
            DEISMultistepConfiguration(contentsOf: path), DEISMultistepConfiguration(contentsOf: "\(path)/scheduler_config.json"),
            DEISMultistepConfiguration(contentsOf: "\(folder.path)/made", subfolder: "by saving"),
        ] {
            #expect(loaded.jsonText == configuration.jsonText)
        }
        #expect(
            try DEISMultistepScheduler(configuration).plan(.count(2)) == DEISMultistepScheduler(contentsOf: path).plan(.count(2)))
    }

    @Test func savingReplacesTheFileAndLeavesNothingBeside() throws {
        let folder = try TemporaryFolder()
        try folder.write("old", to: "scheduler_config.json")
        try DEISMultistepConfiguration().save(toDirectory: folder.path)
        try DEISMultistepConfiguration().save(toDirectory: folder.path + "/")
        #expect(try folder.names == ["scheduler_config.json"])
        #expect(try folder.read("scheduler_config.json") == Self.defaultText)
    }

    /// Like diffusers, saving creates all missing parent folders.
    @Test func savingMakesTheFoldersAbove() throws {
        let folder = try TemporaryFolder()
        try DEISMultistepConfiguration().save(toDirectory: "\(folder.path)/a/b/c")
        #expect(try folder.read("a/b/c/scheduler_config.json") == Self.defaultText)
    }

    @Test func aSubfolderPrecedesItsFolder() throws {
        let folder = try TemporaryFolder()
        try folder.write(#"{"solver_order": 1}"#, to: "scheduler_config.json")
        try folder.write(#"{"solver_order": 3}"#, to: "scheduler/scheduler_config.json")
        try folder.write(#"{"solver_order": 2}"#, to: "other.json")
        #expect(try DEISMultistepConfiguration(contentsOf: folder.path).solverOrder == 1)
        #expect(try DEISMultistepConfiguration(contentsOf: folder.path, subfolder: "scheduler").solverOrder == 3)
        #expect(try DEISMultistepConfiguration(contentsOf: "\(folder.path)/scheduler").solverOrder == 3)
        #expect(try DEISMultistepConfiguration(contentsOf: folder.path, subfolder: "none").solverOrder == 1, "the fallback")
        #expect(try DEISMultistepConfiguration(contentsOf: "\(folder.path)/other.json").solverOrder == 2)
        #expect(try DEISMultistepConfiguration(contentsOf: "\(folder.path)/other.json", subfolder: "none").solverOrder == 2)
    }

    @Test func theCatalogLoadsWhatTheFileNames() throws {
        let folder = try TemporaryFolder()
        var configuration = DEISMultistepConfiguration()
        configuration.solverOrder = 3
        try configuration.save(toDirectory: folder.path)
        let scheduler = try SchedulerCatalog.makeScheduler(contentsOf: folder.path, overrides: ["use_karras_sigmas": true])
        let deis = try #require(scheduler as? DEISMultistepScheduler)
        #expect(deis.solverOrder == 3 && deis.configuration.useKarrasSigmas)
        let nested = try SchedulerCatalog.makeScheduler(contentsOf: folder.path, subfolder: "scheduler")
        #expect(try nested.plan(.count(4)) == makeDEIS { $0.solverOrder = 3 }.plan(.count(4)))
        #expect(try SchedulerCatalog.makeScheduler(json: configuration.jsonText) is DEISMultistepScheduler)
    }

    // MARK: Codable

    static let codedConfigurations: [String] = [
        defaultText, ddimText, #"{"solver_order": 3, "trained_betas": [0.1, 0.25], "num_train_timesteps": 2}"#,
        #"{"lambda_min_clipped": -Infinity, "x": NaN, "y": Infinity}"#,
        #"{"n": [1, 2.5, 0.001, null, true, {"a": "b"}], "s": "é\n"}"#,
        #"{"diffusion_scheduling_final_sigmas_type": "zero", "sigma_max": 14.5}"#,
    ]

    @Test(arguments: codedConfigurations) func decodedConfigurationsMeanTheSame(text: String) throws {
        let original = try DEISMultistepConfiguration(json: text)
        let decoded = try JSONDecoder().decode(DEISMultistepConfiguration.self, from: JSONEncoder().encode(original))
        for (ours, theirs) in zip(values(decoded), values(original)) { #expect(ours == theirs) }
        #expect(decoded.origin.otherKeys.keys.sorted() == original.origin.otherKeys.keys.sorted())
        #expect(decoded.unusedKeys == original.unusedKeys)
    }

    private func values(_ configuration: DEISMultistepConfiguration) -> [String] {
        var plain = configuration
        plain.origin = ConfigurationOrigin()
        return plain.jsonText.split(separator: "\n").map(String.init)
    }

    @Test(arguments: codedConfigurations) func decodedConfigurationsEqualTheirOriginals(text: String) throws {
        let original = try DEISMultistepConfiguration(json: text)
        let decoded = try JSONDecoder().decode(DEISMultistepConfiguration.self, from: JSONEncoder().encode(original))
        let equal = decoded == original
        #expect(
            equal, "of the given keys, \(original.origin.givenValues.count) before and \(decoded.origin.givenValues.count) after")
    }

    /// Numbers without a JSON spelling are coded as strings; in a file they must be bare again.
    @Test func decodedConfigurationsAreSavedAsTheirOriginals() throws {
        let original = try DEISMultistepConfiguration(json: #"{"lambda_min_clipped": -Infinity}"#)
        let decoded = try JSONDecoder().decode(DEISMultistepConfiguration.self, from: JSONEncoder().encode(original))
        for (ours, theirs) in zip(decoded.jsonText.split(separator: "\n"), original.jsonText.split(separator: "\n")) {
            #expect(ours == theirs)
        }
    }

    @Test func plansSurviveCoding() throws {
        for (grid, order, thresholding) in [
            (GridChoice.linspace, 2, false), (.beta, 3, true), (.flow, 1, false), (.karras, 3, false),
        ] {
            let plan = try makeDEIS {
                grid.apply(to: &$0)
                $0.solverOrder = order
                $0.thresholding = thresholding
                $0.sampleMaxValue = 1.5
            }.plan(.count(12))
            let decoded = try JSONDecoder().decode(SamplingPlan.self, from: JSONEncoder().encode(plan))
            #expect(decoded == plan)
            #expect(bits(decoded.sigmas) == bits(plan.sigmas) && decoded.levels == plan.levels)
            #expect(bits(try SamplingSession.finalSample(of: decoded)) == bits(try SamplingSession.finalSample(of: plan)))
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// Whole runs of the catalogue's classes against diffusers and against 50-digit arithmetic, over the configurations that
/// `Tests/Goldens/generate_classes.py` recorded. Every class takes one path of code: configuration, catalogue, plan, session.
@Suite struct ClassGoldenTests {
    static let files = [
        "cogvideox_ddim", "cogvideox_dpm", "consistency_models", "cosine_dpmsolver", "ddim_parallel", "ddpm",
        "ddpm_parallel", "ddpm_wuerstchen", "dpmsolver_sde", "dpmsolver_singlestep", "edm_dpmsolver", "edm_euler",
        "euler", "euler_ancestral", "flow_map_euler", "flow_match_euler", "flow_match_heun", "flow_match_lcm", "helios",
        "helios_dmd", "heun", "ipndm", "karras_ve", "kdpm2", "kdpm2_ancestral", "lcm", "lms", "ltx_euler_ancestral",
        "minimax_h3", "piflow", "pndm", "sasolver", "scm", "score_sde_ve", "tcd", "unclip", "unipc",
    ]

    /// The files whose class isn't in the catalogue yet.
    static let missing: Set<String> = []

    static let present = files.filter { !missing.contains($0) }

    @Test func missingClassesAreNamed() throws {
        let absent = try Self.files.filter { file in
            let name = try ClassGoldenFile.load(file).records[0].className
            return !SchedulerCatalog.supportedClassNames.contains(name)
        }
        #expect(Set(absent) == Self.missing, "take a class off the list when it joins the catalogue")
    }

    @Test(arguments: present) func configurationsReturnAsTheyCame(file: String) throws {
        try eachRecord(of: file) { place, record, scheduler in
            #expect(scheduler.configuration.jsonText == record.configText, "\(place)")
        }
    }

    @Test(arguments: present) func timestepsAreTheReferences(file: String) throws {
        var equal = 0, total = 0
        try eachRecord(of: file) { place, record, scheduler in
            let plan = try scheduler.plan(record.request, optionValues: record.optionValues)
            #expect(plan.stepCount == record.evaluationCount, "\(place)")
            for (i, (ours, theirs)) in zip(plan.timesteps, record.timesteps).enumerated() {
                let allowed = record.loose.contains(i) ? 1 : record.timestepTolerance(theirs, at: i, scheduler: scheduler)
                #expect(abs(ours - theirs) <= allowed, "\(place), timestep \(i): \(ours), reference \(theirs), allowed \(allowed)")
                (equal, total) = (equal + (ours == theirs ? 1 : 0), total + 1)
            }
        }
        print("\(file): timesteps equal to diffusers' float32: \(equal) of \(total)")
    }

    @Test(arguments: present) func noiseLevelsAreTheReferences(file: String) throws {
        var greatest = 0.0
        try eachRecord(of: file) { place, record, scheduler in
            let plan = try scheduler.plan(record.request, optionValues: record.optionValues)
            if let initial = record.initNoiseSigma {
                #expect(relative(plan.initNoiseSigma, initial) <= 2 * Tolerance.sigma, "\(place), init_noise_sigma")
            }
            for (index, alpha) in record.alphas {
                // torch doesn't round float64 roots correctly either, and its errors grow where a table is stretched to end at 0.
                let allowed = Double(Float(alpha)) == alpha ? 0 : 1e-13 * alpha
                #expect(abs(scheduler.noiseSchedule.alphasCumprod[index] - alpha) <= allowed, "\(place), alphas_cumprod[\(index)]")
            }
            guard let sigmas = record.sigmas else { return }
            // Grids between two levels inherit the levels' error wherever torch's roots are one unit off.
            let last = plan.stepCount - 1
            let inherited =
                record.isSpaced ? max(relative(plan.sigmas[0], sigmas[0]), relative(plan.sigmas[last], sigmas[last])) : 0
            let ends =
                record.isLogarithmic
                ? Tolerance.luSigma
                : record.isExponential
                    ? 2 * Tolerance.luSigma
                    : record.isInterpolated || record.isPower ? Tolerance.interpolatedSigma : Tolerance.sigma
            #expect(inherited <= ends, "\(place), the ends of the grid")
            for (i, (ours, theirs)) in zip(plan.sigmas, sigmas).enumerated() where i < plan.stepCount || !record.isCut {
                if record.loose.contains(i), plan.timesteps[i] != record.timesteps[i] { continue }
                let deviation = relative(ours, theirs)
                #expect(
                    deviation <= ends * record.steepness(ours) + inherited, "\(place), level \(i): \(ours), reference \(theirs)")
                greatest = max(greatest, deviation)
            }
        }
        print("\(file): noise levels differ by \(greatest) at most")
    }

    @Test(arguments: present) func generatorsDrawAsOftenAsTheReferences(file: String) throws {
        try eachRecord(of: file) { place, record, scheduler in
            let plan = try scheduler.plan(record.request, optionValues: record.optionValues)
            if record.addsNoiseAtTheEnd { return }
            let draws = (record.beginIndex..<plan.stepCount).map { plan.row(at: $0, age: $0 - record.beginIndex).drawCount }
            #expect(draws == Array(record.draws.prefix(draws.count)), "\(place)")
        }
    }

    @Test(arguments: present) func loopsInFloat64AreExact(file: String) throws {
        var greatest = 0.0, greatestReport = 0.0, count = 0
        try eachRecord(of: file) { place, record, scheduler in
            if record.isAnotherLoop { return }
            let (plan, tolerance) = try comparablePlan(record, scheduler)
            // diffusers in float64 is off where the loop is badly conditioned, for example by short steps of high order.
            let own = record.finalFloat64.deviation(from: record.finalExact), allowed = tolerance + 2 * own
            var session = SamplingSession(plan: plan, beginIndex: record.beginIndex),
                oracle = PlainOracle(plan: plan, beginIndex: record.beginIndex)
            var x = record.start, plain = x, report: [Double] = []
            while let timestep = session.timestep {
                let noise = GoldenProblem.noise(step: session.stepIndex), scale = session.inputScale
                let share = plan.outputShare(at: session.stepIndex)
                func model(_ x: [Double]) -> [Double] {
                    x.map { share * GoldenProblem.model($0 * scale, timestep: timestep, trainingCount: scheduler.count) }
                }
                plain =
                    oracle.step(modelOutput: model(plain), sample: plain, noise: noise, batchSize: GoldenProblem.batchSize)
                    .nextSample
                let output = try session.step(
                    modelOutput: plan.withVariance(model(x)), sample: x, noise: noise, batchSize: GoldenProblem.batchSize,
                    predictingOriginalSample: true)
                (x, report) = (output.nextSample, output.predOriginalSample ?? [])
            }
            let deviation = x.deviation(from: record.finalExact)
            #expect(deviation <= allowed, "\(place): \(deviation) from the exact result")
            #expect(plain.deviation(from: record.finalExact) <= allowed, "\(place): the plain loop")
            #expect(x.deviation(from: record.finalFloat64) <= allowed, "\(place): diffusers in float64, whose own error is \(own)")
            if let exact = record.reportExact {
                #expect(report.deviation(from: exact) <= allowed, "\(place): \(plan.reportName)")
                greatestReport = max(greatestReport, report.deviation(from: exact))
            }
            (greatest, count) = (max(greatest, deviation), count + 1)
        }
        print("\(file): \(count) float64 loops within \(greatest) of the exact result, reports within \(greatestReport)")
    }

    @Test(arguments: present) func loopsInFloat32AreNearerThanTheReferences(file: String) throws {
        var nearer = 0, total = 0, ratios: [Double] = []
        try eachRecord(of: file) { place, record, scheduler in
            if record.isAnotherLoop { return }
            let (plan, _) = try comparablePlan(record, scheduler)
            let x = try float32Loop(record, plan: plan, scheduler)
            #expect(x.allFinite, "\(place)")
            let exact = try exactLoop(record, plan: plan, scheduler)
            let ours = x.map(Double.init).rootMeanSquareError(from: exact)
            let theirs = record.finalFloat32.rootMeanSquareError(from: exact)
            (nearer, total) = (nearer + (ours > theirs ? 0 : 1), total + 1)
            if theirs.isFinite, theirs > 0, ours > 0 { ratios.append(logarithm(ours / theirs)) }
        }
        let mean = exponential(ratios.reduce(0, +) / Double(ratios.count))
        print(
            "\(file): float32 loops nearer to the exact result than diffusers': \(nearer) of \(total), with \(mean) of their error")
        let isShort = [
            "cogvideox_ddim", "edm_euler", "euler", "euler_ancestral", "flow_map_euler", "flow_match_euler", "flow_match_heun",
            "flow_match_lcm", "helios_dmd", "heun", "karras_ve", "kdpm2", "kdpm2_ancestral", "lms", "minimax_h3", "piflow",
            "score_sde_ve",
        ].contains(file)
        #expect(Double(nearer) >= (isShort ? Tolerance.nearerShareOfShortSums : Tolerance.nearerShare) * Double(total))
        #expect(mean < 1, "the geometric mean of our error over diffusers'")
    }

    /// The loop in float64 from the float32 start. Rounding the start would be the larger part of both errors.
    private func exactLoop(_ record: ClassRecord, plan: SamplingPlan, _ scheduler: any PlannedScheduler) throws -> [Double] {
        var session = SamplingSession(plan: plan, beginIndex: record.beginIndex), x = record.start.map { Double(Float($0)) }
        while let timestep = session.timestep {
            let noise = GoldenProblem.noise(step: session.stepIndex), scale = session.inputScale
            let share = plan.outputShare(at: session.stepIndex)
            let output = x.map { share * GoldenProblem.model($0 * scale, timestep: timestep, trainingCount: scheduler.count) }
            try session.step(
                modelOutput: plan.withVariance(output), sample: &x, noise: noise, batchSize: GoldenProblem.batchSize)
        }
        return x
    }

    // MARK: Support

    private func eachRecord(
        of file: String, _ body: (_ place: String, _ record: ClassRecord, _ scheduler: any PlannedScheduler) throws -> Void
    ) throws {
        for (index, record) in try ClassGoldenFile.load(file).records.enumerated() {
            do {
                try body("\(file), record \(index)", record, SchedulerCatalog.makeScheduler(json: record.configText))
            } catch SchedulerError.invalidValue(let key, _, _) where key == record.refusedKey {
                continue
            } catch {
                Issue.record("\(file), record \(index): \(error)")
            }
        }
    }

    /// A plan on the reference's own noise levels, so only the coefficients differ, and the tolerance for its loops.
    private func comparablePlan(_ record: ClassRecord, _ scheduler: any PlannedScheduler) throws -> (SamplingPlan, Double) {
        let plan = try scheduler.plan(record.request, optionValues: record.optionValues)
        guard let sigmas = record.sigmas?.prefix(plan.stepCount + 1),
            plan.sigmas != Array(sigmas) || plan.timesteps != record.timesteps
        else { return (plan, Tolerance.loop) }
        let grid = TimestepGrid(timesteps: record.timesteps, exactSigmas: Array(sigmas), process: plan.grid.process)
        if let definition = scheduler.configuration as? any VarianceExplodingDefinition {
            return (try self.plan(definition, on: grid, record), Tolerance.loop)
        }
        let configuration = scheduler.configuration
        if configuration is any SigmaGridConfiguration || configuration is CMStochasticIterativeConfiguration
            || configuration is any EDMDefinition || configuration is IPNDMConfiguration || configuration is KarrasVeConfiguration
            || configuration is ScoreSdeVeConfiguration
        {
            return (try scheduler.plan(on: grid, optionValues: record.optionValues), Tolerance.loop)
        }
        // Levels may be a unit in the last place off, and the model is steep in none of its arguments.
        return (plan, 100 * Tolerance.sigma)
    }

    private func plan<D: VarianceExplodingDefinition>(
        _ definition: D, on grid: TimestepGrid, _ record: ClassRecord
    ) throws -> SamplingPlan {
        try definition.plan(on: grid, for: record.request, options: D.Options(values: record.optionValues))
    }

    private func float32Loop<S: PlannedScheduler>(
        _ record: ClassRecord, plan: SamplingPlan, _ scheduler: S
    ) throws -> [Float] {
        var scheduler = scheduler
        scheduler.session = SamplingSession(plan: plan, beginIndex: record.beginIndex)
        var x = record.start.map { Float($0) }
        while let timestep = scheduler.session?.timestep, let index = scheduler.stepIndex {
            let e = try scheduler.scaleModelInput(x, timestep: timestep).map {
                Float(
                    plan.outputShare(at: index)
                        * GoldenProblem.model(Double($0), timestep: timestep, trainingCount: scheduler.count))
            }
            try scheduler.session?.step(
                modelOutput: plan.withVariance(e), sample: &x, noise: GoldenProblem.noise(step: index).map { Float($0) },
                batchSize: GoldenProblem.batchSize)
        }
        return x
    }

    private func relative(_ value: Double, _ exact: Double) -> Double {
        value == exact ? 0 : abs(value - exact) / abs(exact)
    }
}

extension SamplingPlan {
    /// A model's output, followed in each batch item by the variance if the plan expects one.
    func withVariance<Element: TensorElement & ExpressibleByFloatLiteral>(_ e: [Element]) -> [Element] {
        guard modelLearnsVariance else { return e }
        let count = e.count / GoldenProblem.batchSize
        let variance = [Element](repeating: 0.5, count: count)
        var output: [Element] = []
        for item in 0..<GoldenProblem.batchSize { output += e[item * count..<(item + 1) * count] + variance }
        return output
    }

    /// Σ w_k (1 + k/8): the weighted sum of the model's outputs e_k = (1 + k/8) e, as a multiple of e. 1 for models with one output.
    func outputShare(at index: Int) -> Double {
        outputWeights.isEmpty ? 1 : outputWeights[index].enumerated().reduce(0) { $0 + $1.element * (1 + Double($1.offset) / 8) }
    }
}

struct ClassGoldenFile: Decodable {
    let records: [ClassRecord]

    static func load(_ name: String) throws -> ClassGoldenFile {
        try JSONDecoder().decode(ClassGoldenFile.self, from: GoldenFile.data(name))
    }
}

/// A record of `generate_classes.py`, which documents the fields.
struct ClassRecord: Decodable {
    let className: String
    let configText: String
    let arguments: [String: JSONValue]
    let options: [String: JSONValue]
    let timesteps: [Double]
    let loose: Set<Int>
    let initNoiseSigma: Double?
    let beginIndex: Int
    let draws: [Int]
    private let alphasData: Data?
    private let alphasProbe: [String: Double]?
    private let sigmasData, wideSigmasData, initialData, reportExactData: Data?
    private let finalExactData, finalFloat64Data, finalFloat32Data: Data

    private enum CodingKeys: String, CodingKey {
        case className = "class", configText = "config_text", arguments = "request", options, timesteps, loose, draws
        case initNoiseSigma = "init_noise_sigma", beginIndex = "begin_index", alphasData = "alphas", alphasProbe = "alphas_probe"
        case sigmasData = "sigmas", wideSigmasData = "sigmas_float64", initialData = "initial"
        case reportExactData = "report_exact", finalExactData = "final_exact"
        case finalFloat64Data = "final_float64", finalFloat32Data = "final_float32"
    }

    var sigmas: [Double]? {
        sigmasData.map { GoldenRecord.numbers(Float.self, $0).map(Double.init) }
            ?? wideSigmasData.map { GoldenRecord.numbers(Double.self, $0) }
    }
    var finalExact: [Double] { GoldenRecord.numbers(Double.self, finalExactData) }
    var finalFloat64: [Double] { GoldenRecord.numbers(Double.self, finalFloat64Data) }
    var finalFloat32: [Double] { GoldenRecord.numbers(Double.self, finalFloat32Data) }
    var reportExact: [Double]? { reportExactData.map { GoldenRecord.numbers(Double.self, $0) } }

    /// ᾱ by training timestep, for some timesteps or for all.
    var alphas: [Int: Double] {
        var alphas = Dictionary(uniqueKeysWithValues: (alphasProbe ?? [:]).map { (Int($0)!, $1) })
        let table: [Float] = alphasData.map { GoldenRecord.numbers(Float.self, $0) } ?? []
        for index in table.indices { alphas[index] = Double(table[index]) }
        return alphas
    }

    /// The loop's start: the first samples, or an image with noise if the loop begins late.
    var start: [Double] {
        initialData.map { GoldenRecord.numbers(Double.self, $0) } ?? GoldenProblem.initialSample.map { $0 * (initNoiseSigma ?? 1) }
    }

    var request: TimestepRequest {
        func numbers(_ key: String) -> [Double]? {
            guard case .array(let values)? = arguments[key] else { return nil }
            return values.compactMap(\.doubleValue)
        }
        let mu = arguments["mu"]?.doubleValue
        switch (numbers("timesteps"), numbers("sigmas")) {
        case (let timesteps?, let sigmas?): return .timestepsAndSigmas(timesteps, sigmas, mu: mu)
        case (nil, let sigmas?): return .sigmas(sigmas, mu: mu)
        case (let timesteps?, nil): return .timesteps(timesteps, mu: mu)
        case (nil, nil): return .count(arguments["n"]?.intValue ?? 0, mu: mu)
        }
    }

    /// The arguments that are options of a run here. The original's flow-matching Euler takes the churn's four and ignores them;
    /// ours doesn't take them.
    var optionValues: [String: JSONValue] {
        let named = arguments.filter { !["n", "timesteps", "sigmas", "mu"].contains($0.key) }
        return className == "FlowMatchEulerDiscreteScheduler" ? named : named.merging(options) { $1 }
    }

    private func isTrue(_ key: String) -> Bool { configText.contains("\"\(key)\": true") }

    // MARK: Intended differences

    /// Whether NumPy's `arange` gave the spacing `trailing` one extra timestep, −1, which ours leaves out.
    var isCut: Bool {
        guard let n = arguments["n"]?.intValue, configText.contains("\"timestep_spacing\": \"trailing\"") else { return false }
        return timesteps.last == -1 && (timesteps.count == n + 1 || timesteps.count == 2 * n + 1)
    }

    /// Whether the original adds noise after the last step: LCM with custom timesteps and a strength. Ours never adds it.
    var addsNoiseAtTheEnd: Bool {
        className == "LCMScheduler" && arguments["timesteps"] != nil && (arguments["strength"]?.doubleValue ?? 1) < 1
    }

    /// Whether the samples differ on purpose. PNDM counts its calls wherever a run begins; ours counts from the run's start.
    var isAnotherLoop: Bool { isCut || addsNoiseAtTheEnd || (className == "PNDMScheduler" && beginIndex > 0) }

    /// The key that ours refuses and the original accepts: inverted flow levels above 1, and UniPC's flow levels in a request whose
    /// configuration spaces them otherwise.
    var refusedKey: String? {
        switch className {
        case "FlowMatchEulerDiscreteScheduler" where isTrue("invert_sigmas"), "FlowMatchLCMScheduler" where isTrue("invert_sigmas"):
            "sigma_max"
        case "UniPCMultistepScheduler" where isTrue("use_flow_sigmas") && isTrue("use_beta_sigmas") && arguments["sigmas"] != nil:
            "sigmas"
        default: nil
        }
    }

    /// Steps with two evaluations count twice at the timestep −1.
    var evaluationCount: Int {
        guard isCut, let n = arguments["n"]?.intValue else { return timesteps.count }
        return timesteps.count - (timesteps.count == n + 1 ? 1 : 2)
    }

    // MARK: Tolerances of the reference's own float32 arithmetic

    /// Whether the levels are spread between two training levels.
    var isSpaced: Bool {
        isTrue("use_karras_sigmas") || isTrue("use_exponential_sigmas") || isTrue("use_beta_sigmas") || isLogarithmic
    }

    /// Whether levels lie between training levels.
    var isInterpolated: Bool { timesteps.contains { $0 != $0.rounded() } && sigmasData != nil }

    /// Whether levels are float32 powers by torch, which may be off in their last bit, times a number.
    var isPower: Bool { className == "KarrasVeScheduler" }

    /// Whether levels are exponentials of evenly spaced float32 logarithms. Those are off by the spacing's roundings, too.
    var isExponential: Bool { className == "ScoreSdeVeScheduler" }

    /// Whether levels come from float32 logarithms.
    var isLogarithmic: Bool { configText.contains("\"interpolation_type\": \"log_linear\"") }

    private var isContinuous: Bool {
        configText.contains("\"timestep_type\": \"continuous\"") && configText.contains("\"prediction_type\": \"v_prediction\"")
    }

    /// A level's relative error over the relative error of its inputs. IPNDM's levels are β/√(1 − β²), whose relative derivative by
    /// β is 1 + ς². torch's sine is one unit in the last place off, and so β two and a half; 1 − β² adds half a unit of β, and the
    /// root one unit.
    func steepness(_ sigma: Double) -> Double { className == "IPNDMScheduler" ? 4 * (1 + sigma * sigma) : 1 }

    /// The allowed error of a fractional timestep that was looked up at a level. It depends on float32 logarithms, which NumPy and
    /// torch don't round correctly, of float32 roots, which torch doesn't: four units in the last place of the logarithms.
    func timestepTolerance(_ timestep: Double, at index: Int, scheduler: any PlannedScheduler) -> Double {
        let noise = scheduler.noiseSchedule
        if scheduler.configuration is IPNDMConfiguration {
            // An angle. Its derivative by ς is 1/(1 + ς²).
            let level = min(tangent(min(timestep, 0.9999) * .pi / 2), 1e3)
            return 4 * (Tolerance.sigma * level + Double(Float(timestep).ulp))
        }
        if let configuration = scheduler.configuration as? CMStochasticIterativeConfiguration {
            // 250 times the logarithm of a power, whose base is ρ roundings off, and both functions' roundings.
            return 250 * 0x1p-52 * (4 * abs(configuration.rho) + 4) + timestep.ulp
        }
        if isPower || isExponential { return Tolerance.interpolatedSigma * timestep }
        // torch divides by mu's weight in two roundings, then interpolates between the ends of a stage.
        if wideSigmasData != nil, arguments["mu"] != nil { return 4 * max(timestep, 1).ulp }
        // EDM's timesteps are logarithms, or angles, of their own levels.
        if scheduler.configuration is any EDMDefinition { return 4 * Double(Float(max(abs(timestep), 0.25)).ulp) }
        guard scheduler.configuration is any VarianceExplodingDefinition, noise.count > 1 else { return 0 }
        if isContinuous { return 4 * Double(Float(max(abs(timestep), 0.25)).ulp) }
        // KDPM2 and the stochastic DPM-Solver look up the timesteps of second evaluations, whose levels lie between the steps'
        // levels.
        let isBetween = index % 2 == 1 && (className.hasPrefix("KDPM2") || className.hasPrefix("DPMSolverSDE"))
        guard isSpaced || isBetween || arguments["sigmas"] != nil else { return 0 }
        let lower = min(Int(timestep), noise.count - 2), low = noise.logSigmas[lower], high = noise.logSigmas[lower + 1]
        let unit = Double(Float(max(abs(low), abs(high), 1)).ulp)
        // These timesteps also round the interpolation's two products and their sum to float32.
        let own = min(4 * unit / abs(high - low), 1) + (isBetween ? 2 : 1) * Double(Float(timestep).ulp)
        guard isBetween, className.hasPrefix("KDPM2Ancestral"), let sigmas, sigmas[index] > 0 else { return own }
        // An ancestral run's level between two steps is a float32 root of r² τ², the difference of two squares near τ²; r is the
        // ratio of the step's levels. Some 6 roundings of τ² put the logarithm of the root of this level and ς off by 1.5/r²
        // roundings. Twice as much is allowed, because the logarithms' slope changes on the way; above a fifth, all digits are
        // lost.
        let ratio = sigmas[index] / sigmas[index - 1], lost = 3 * 0x1p-24 / (ratio * ratio)
        return lost < 0.2 ? own + lost / abs(high - low) : .infinity
    }
}

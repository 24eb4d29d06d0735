// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestDraws
import Testing

@testable import DiffusionScheduling

/// DDIM and its inverse against diffusers and against 50-digit arithmetic, over the recorded configurations.
@Suite struct DDIMGoldenTests {
    @Suite struct Forward {
        let goldens = DDIMGoldens<DDIMScheduler>("ddim")
        @Test func coversTheParameters() throws { try goldens.checkCoverage(atLeast: 300) }
        @Test func configurationsReturnAsTheyCame() throws { try goldens.checkConfigurations() }
        @Test func timestepsAreTheReferences() throws { try goldens.checkTimesteps() }
        @Test func tablesAreTheReferences() throws { try goldens.checkTables() }
        @Test func coefficientsAreExact() throws {
            try goldens.checkCoefficients { scheduler, record, timestep in
                let stride = Double(scheduler.count / record.n)
                return try scheduler.row(
                    from: timestep, to: timestep >= stride ? timestep - stride : nil, eta: record.eta ?? 0,
                    useClippedModelOutput: record.useClippedModelOutput ?? false)
            }
        }
        @Test func loopsAreExact() throws {
            try goldens.checkLoops { scheduler, record, index, timestep, e, x, z in
                let eta = record.eta ?? 0
                return try scheduler.step(
                    modelOutput: e, timestep: timestep, sample: x, eta: eta,
                    useClippedModelOutput: record.useClippedModelOutput ?? false, noise: z,
                    batchSize: GoldenProblem.batchSize)
            }
        }
        @Test func loopsInFloat32AreNearerThanTheReferences() throws {
            try goldens.checkFloat32Loops { scheduler, record, timestep, e, x, z in
                try scheduler.step(
                    modelOutput: e, timestep: timestep, sample: x, eta: record.eta ?? 0,
                    useClippedModelOutput: record.useClippedModelOutput ?? false, noise: z,
                    batchSize: GoldenProblem.batchSize
                ).nextSample
            }
        }
    }

    @Suite struct Inverse {
        let goldens = DDIMGoldens<DDIMInverseScheduler>("ddim_inverse")
        @Test func coversTheParameters() throws { try goldens.checkCoverage(atLeast: 100) }
        @Test func configurationsReturnAsTheyCame() throws { try goldens.checkConfigurations() }
        @Test func timestepsAreTheReferences() throws { try goldens.checkTimesteps() }
        @Test func tablesAreTheReferences() throws { try goldens.checkTables() }
        @Test func coefficientsAreExact() throws {
            try goldens.checkCoefficients { scheduler, record, timestep in
                try scheduler.row(to: timestep, stepCount: record.n)
            }
        }
        @Test func loopsAreExact() throws {
            try goldens.checkLoops { scheduler, _, _, timestep, e, x, _ in
                try scheduler.step(modelOutput: e, timestep: timestep, sample: x, batchSize: GoldenProblem.batchSize)
            }
        }
        @Test func loopsInFloat32AreNearerThanTheReferences() throws {
            try goldens.checkFloat32Loops { scheduler, _, timestep, e, x, _ in
                try scheduler.step(modelOutput: e, timestep: timestep, sample: x, batchSize: GoldenProblem.batchSize).nextSample
            }
        }
    }
}

struct DDIMRecord: Decodable {
    struct Coefficients: Decodable {
        let index: Int
        let timestep: Double
        let a, b: Double?
        let c: Double?
        let aModel, bModel: Double?

        private enum CodingKeys: String, CodingKey {
            case index, timestep, a, b, c, aModel = "a_model", bModel = "b_model"
        }
    }

    let configText: String
    let n: Int
    let timesteps: [Double]
    let alphasProbe: [String: Double]
    let coefficients: [Coefficients]?
    let eta: Double?
    let useClippedModelOutput: Bool?
    let finalExact, finalFloat64, finalFloat32, cleanExact: Data

    private enum CodingKeys: String, CodingKey {
        case configText = "config_text", n, timesteps, alphasProbe = "alphas_probe", coefficients, eta
        case useClippedModelOutput = "use_clipped_model_output"
        case finalExact = "final_exact", finalFloat64 = "final_float64", finalFloat32 = "final_float32", cleanExact = "x0_exact"
    }
}

/// Checks for DDIM and its inverse.
struct DDIMGoldens<S: PlannedScheduler> {
    struct File: Decodable {
        let coverage: [String: [String: Int]]
        let records: [DDIMRecord]
    }

    let file: Result<File, any Error>

    init(_ name: String) {
        file = Result { try JSONDecoder().decode(File.self, from: GoldenFile.data(name)) }
    }

    func eachRecord(_ body: (_ index: Int, _ record: DDIMRecord, _ scheduler: S) throws -> Void) throws {
        for (index, record) in try file.get().records.enumerated() where index % TestDraws.step == 0 {
            var scheduler = try S(S.Configuration(json: record.configText))
            try scheduler.setTimesteps(record.n)
            try body(index, record, scheduler)
        }
    }

    func checkCoverage(atLeast count: Int) throws {
        let file = try file.get()
        #expect(file.records.count >= count)
        for parameter in S.Configuration.parameters where parameter.overrideName == nil {
            guard !["beta_start", "beta_end"].contains(parameter.key) else { continue }
            #expect((file.coverage[parameter.key]?.count ?? 0) >= 2, "\(parameter.key)")
        }
    }

    func checkConfigurations() throws {
        try eachRecord { index, record, scheduler in
            #expect(scheduler.configuration.jsonText == record.configText, "record \(index)")
        }
    }

    func checkTimesteps() throws {
        try eachRecord { index, record, scheduler in #expect(scheduler.timesteps == record.timesteps, "record \(index)") }
    }

    func checkTables() throws {
        try eachRecord { index, record, scheduler in
            for (j, alpha) in record.alphasProbe {
                #expect(scheduler.noiseSchedule.alphasCumprod[Int(j)!] == alpha, "record \(index), timestep \(j)")
            }
        }
    }

    func checkCoefficients(_ coefficients: (S, DDIMRecord, Double) throws -> PlanRow) throws {
        try eachRecord { index, record, scheduler in
            for golden in record.coefficients ?? [] {
                let ours = try coefficients(scheduler, record, golden.timestep).nextSample
                let place = "record \(index), timestep \(golden.timestep)"
                // b is a difference that cancels between near levels, so its larger term scales its error.
                if let a = golden.aModel ?? golden.a {
                    #expect(abs(ours.sample - a) <= Tolerance.coefficient * max(abs(a), 1), "\(place), a")
                }
                if let b = golden.bModel ?? golden.b {
                    #expect(
                        abs(ours.modelOutput - b) <= Tolerance.coefficient * max(abs(b), 1),
                        "\(place), b: \(ours.modelOutput), \(b)")
                }
                if let c = golden.c { #expect(abs(ours.noise - c) <= Tolerance.coefficient, "\(place), c") }
            }
        }
    }

    func checkLoops(
        _ step: (inout S, DDIMRecord, Int, Double, [Double], [Double], [Double]) throws -> SchedulerOutput<Double>
    ) throws {
        try eachRecord { index, record, scheduler in
            var scheduler = scheduler
            var x = GoldenProblem.initialSample, clean: [Double] = []
            for (i, timestep) in scheduler.timesteps.enumerated() {
                let e = x.map { GoldenProblem.model($0, timestep: timestep, trainingCount: scheduler.count) }
                let output = try step(&scheduler, record, i, timestep, e, x, GoldenProblem.noise(step: i))
                (x, clean) = (output.nextSample, output.predOriginalSample ?? [])
            }
            let exact = GoldenRecord.numbers(Double.self, record.finalExact)
            let float64 = GoldenRecord.numbers(Double.self, record.finalFloat64)
            #expect(x.deviation(from: exact) <= Tolerance.loop, "record \(index)")
            #expect(
                clean.deviation(from: GoldenRecord.numbers(Double.self, record.cleanExact)) <= Tolerance.loop,
                "record \(index), clean sample")
            #expect(
                x.deviation(from: float64) <= Tolerance.loop + 2 * float64.deviation(from: exact),
                "record \(index), diffusers in float64")
        }
    }

    func checkFloat32Loops(_ step: (inout S, DDIMRecord, Double, [Float], [Float], [Float]) throws -> [Float]) throws {
        var nearer = 0, total = 0
        try eachRecord { index, record, scheduler in
            var scheduler = scheduler
            var x = GoldenProblem.initialSample.map { Float($0) }
            for (i, timestep) in scheduler.timesteps.enumerated() {
                let e = x.map { Float(GoldenProblem.model(Double($0), timestep: timestep, trainingCount: scheduler.count)) }
                x = try step(&scheduler, record, timestep, e, x, GoldenProblem.noise(step: i).map { Float($0) })
            }
            let exact = GoldenRecord.numbers(Double.self, record.finalExact)
            let ours = x.map(Double.init).rootMeanSquareError(from: exact)
            let theirs = GoldenRecord.numbers(Double.self, record.finalFloat32).rootMeanSquareError(from: exact)
            total += 1
            if !(ours > theirs) { nearer += 1 }
        }
        print("\(S.self): float32 loops nearer to the exact result than diffusers': \(nearer) of \(total)")
        #expect(Double(nearer) >= Tolerance.nearerShare * Double(total))
    }
}

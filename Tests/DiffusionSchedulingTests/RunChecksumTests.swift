// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

@testable import DiffusionScheduling

/// Checksums of whole runs: record them before a change that must not move a bit, and compare them after it:
///
///     DIFFUSION_SCHEDULING_CHECKSUMS=/tmp/runs.txt swift test --filter RunChecksum
///
/// writes the file if it doesn't exist, and compares with it otherwise. The checksums hold for one machine: another C library's
/// elementary functions may round differently.
@Suite struct RunChecksumTests {
    private static let path = ProcessInfo.processInfo.environment["DIFFUSION_SCHEDULING_CHECKSUMS"]

    @Test(.enabled(if: path != nil), arguments: ["deis", "dpmsolver", "dpmsolver_inverse", "ddim", "ddim_inverse"])
    func runsHaveTheRecordedBits(name: String) throws {
        let file = URL(filePath: try #require(Self.path)).appendingPathExtension(name)
        let lines = try Self.lines(of: name)
        if let recorded = try? String(contentsOf: file, encoding: .utf8).split(separator: "\n").map(String.init) {
            #expect(recorded.count == lines.count)
            for (ours, theirs) in zip(lines, recorded) { #expect(ours == theirs) }
        } else {
            try Data(lines.joined(separator: "\n").utf8).write(to: file)
        }
    }

    private struct Record: Decodable {
        let configText: String
        let n: Int
        let mu: Double?
        let eta: Double?

        private enum CodingKeys: String, CodingKey { case configText = "config_text", n, mu, eta }
    }

    private struct File: Decodable { let records: [Record] }

    private static func lines(of name: String) throws -> [String] {
        try JSONDecoder().decode(File.self, from: GoldenFile.data(name)).records.enumerated().map { index, record in
            let scheduler = try SchedulerCatalog.makeScheduler(json: record.configText)
            let plan: SamplingPlan
            if let ddim = scheduler as? DDIMScheduler {
                plan = try ddim.plan(.count(record.n), eta: record.eta ?? 0)
            } else {
                plan = try scheduler.plan(.count(record.n, mu: record.mu))
            }
            let late = plan.stepCount / 3
            return """
                \(name) \(index) grid \(bits(plan.timesteps + plan.sigmas + [plan.initNoiseSigma])) \
                f32 \(try run(Float.self, plan)) f64 \(try run(Double.self, plan)) f16 \(try run(Float16.self, plan)) \
                late \(try run(Float.self, plan, from: late)) guided \(try run(Float.self, plan, guidance: Guidance(scale: 3))) \
                rescaled \(try run(Float.self, plan, guidance: Guidance(scale: 3, rescale: 0.5))) \
                consuming \(try run(Float.self, plan, consuming: true)) rows \(try rows(plan, late: late))
                """
        }
    }

    private static func bits(_ numbers: [Double]) -> String {
        let checksum = numbers.map(\.bitPattern).withUnsafeBytes { Checksum.of($0) }
        return String(checksum, radix: 16)
    }

    private static func start<Element: TensorElement & BinaryFloatingPoint>() -> [Element] {
        GoldenProblem.initialSample.map { Element($0) }
    }

    private static func model<Element: BinaryFloatingPoint>(_ x: [Element], _ timestep: Double) -> [Element] {
        x.map { Element(GoldenProblem.model(Double($0), timestep: timestep, trainingCount: 1000)) }
    }

    private static func run<Element: TensorElement & BinaryFloatingPoint>(
        _ type: Element.Type, _ plan: SamplingPlan, from begin: Int = 0, guidance: Guidance? = nil, consuming: Bool = false
    ) throws -> String {
        var session = SamplingSession(plan: plan, beginIndex: begin), x: [Element] = start(), all: [Double] = []
        var buffer = try TensorBuffer<Element>(count: x.count)
        while let timestep = session.timestep {
            let e = model(x, timestep), noise = GoldenProblem.noise(step: session.stepIndex).map { Element($0) }
            let batch = GoldenProblem.batchSize
            if let guidance {
                let u = model(x.map { $0 * 0.75 }, timestep)
                try session.step(
                    conditional: e, unconditional: u, guidance: guidance, sample: &x, noise: noise, batchSize: batch)
            } else if consuming {
                buffer.withMutableSpan { span in for index in e.indices { span[index] = e[index] } }
                var span = x.mutableSpan
                try session.step(consuming: &buffer, sample: &span, noise: noise.span, batchSize: batch)
            } else {
                let output = try session.step(
                    modelOutput: e, sample: x, noise: noise, batchSize: batch, predictingOriginalSample: true)
                x = output.nextSample
                all += (output.predOriginalSample ?? []).map { Double($0) }
            }
            all += x.map { Double($0) }
        }
        return bits(all)
    }

    private static func rows(_ plan: SamplingPlan, late: Int) throws -> String {
        var sessions: [SamplingSession?] = [SamplingSession(plan: plan), SamplingSession(plan: plan, beginIndex: late)]
        var x: [Float] = start() + start(), all: [Double] = []
        let count = GoldenProblem.elementCount
        while sessions.contains(where: { $0?.timestep != nil }) {
            let done = sessions.map { $0?.timestep == nil }
            for row in sessions.indices where done[row] { sessions[row] = nil }
            let e = (0..<2).flatMap { model(Array(x[$0 * count..<($0 + 1) * count]), sessions[$0]?.timestep ?? 0) }
            let noise = (0..<2).flatMap { GoldenProblem.noise(step: sessions[$0]?.stepIndex ?? 0).map { Float($0) } }
            try SamplingSession.step(rows: &sessions, modelOutput: e, sample: &x, noise: noise)
            all += x.map { Double($0) }
        }
        return bits(all)
    }
}

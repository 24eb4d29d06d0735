// SPDX-License-Identifier: Apache-2.0

import CKernels
import CTestSupport
import Foundation
import Testing

/// Calls from many threads at once, and the process-wide switches.
extension KernelTests {
    @Suite struct ParallelTests {
        @Test func runtimeDescription() {
            let description = String(cString: dsk_runtime_description())
            #expect(description.count > 5)
            #expect(String(cString: dsk_runtime_description()) == description)
            #expect(dsk_default_thread_count() >= 1)
        }

        /// Proves that threads are tested at all: without the switch, every test would use at most the machine's number of cores.
        @Test func testsGetTheirThreads() {
            let count = withLimits(parallelElements: 0) { dsk_default_thread_count() }
            #expect(count == 8 || String(cString: dsk_runtime_description()).hasPrefix("none"))
        }

        @Test func limitsRoundTrip() {
            let shipped = dsk_get_limits()
            defer { dsk_set_limits(shipped) }
            #expect(shipped.parallel_elements > 0 && shipped.streaming_bytes > 0)
            for (parallel, streaming) in [(0, 0), (12345, 678), (.max, 1)] {
                dsk_set_limits(dsk_limits(parallel_elements: parallel, streaming_bytes: streaming))
                #expect(dsk_get_limits().parallel_elements == parallel)
                #expect(dsk_get_limits().streaming_bytes == streaming)
            }
        }

        @Test func isaLimit() {
            let best = dsk_limit_isa(DSK_ISA_AVX512)
            defer { dsk_limit_isa(best) }
            #expect(dsk_isa.available.contains(DSK_ISA_BASELINE))
            #expect(dsk_isa.available.last == best)
            #expect(dsk_limit_isa(DSK_ISA_BASELINE) == DSK_ISA_BASELINE)
            #expect(dsk_limit_isa(dsk_isa(rawValue: 1000)) == best)
            #expect(dsk_limit_isa(dsk_isa(rawValue: .max)).rawValue <= best.rawValue)  // -1 where enums are signed
        }

        /// A thresholded step whose items, threads and sizes depend on the number; its own serial oracle checks it.
        private struct Job: @unchecked Sendable {  // every job's memory is its own
            let call = Call<Float>()
            let outputs: [Tensor<Float>]
            let expected: [[Float]]

            init(number: Int) {
                var random = Random("job \(number)")
                var outputs: [Tensor<Float>] = [], expected: [[Float]] = []
                for _ in 0...number % 3 {
                    var row = random.row(zeroPercent: 10)
                    row.clamp = DSK_CLAMP_THRESHOLD
                    let count = 300 + random.below(900)
                    let inputs: [[Float]] = (0..<Row.inputCount).map { _ in random.values(count) }
                    let output = Tensor<Float>(count: count)
                    call.add(row, inputs: inputs.map { Tensor($0) }, outputs: [output], count: count)
                    let threshold = plainThreshold(plainPrediction(row, inputs, count: count), ratio: 0.9, maxValue: 1e9)
                    outputs.append(output)
                    expected.append(plainStep(row, inputs: inputs, threshold: threshold, count: count)[0])
                }
                self.outputs = outputs
                self.expected = expected
            }

            func run(threads: UInt32) throws {
                outputs.forEach { $0.reset() }
                try require(call.findThresholds(ratio: 0.9, maxValue: 1e9, threads: threads), "\(threads) threads")
                try require(call.step(threads: threads), "\(threads) threads")
                for (i, output) in outputs.enumerated() {
                    try require(noProblem: output.problem(expecting: expected[i]), "item \(i) on \(threads) threads")
                }
            }
        }

        /// Collects failures in code that may not throw.
        private final class Failures: @unchecked Sendable {
            private let lock = NSLock()
            private var failures: [String] = []

            func catching(_ body: () throws -> Void) {
                do { try body() } catch { lock.withLock { failures.append("\(error)") } }
            }
            var all: [String] { lock.withLock { failures } }
        }

        @Test func callsFromManyThreads() {
            let jobs = (0..<24).map { Job(number: $0) }
            let failures = Failures()
            withLimits(parallelElements: 64, streamingBytes: 8192) {
                DispatchQueue.concurrentPerform(iterations: jobs.count) { i in
                    OpenMP.threadCount = 4  // each thread of the queue has its own setting
                    for round in 0..<6 {
                        failures.catching { try jobs[i].run(threads: threadCounts[(i + round) % threadCounts.count]) }
                    }
                }
            }
            #expect(failures.all == [])
        }

        @Test func callsFromTasks() async throws {
            let jobs = (0..<24).map { Job(number: 100 + $0) }
            try await withThrowingTaskGroup { group in
                for (i, job) in jobs.enumerated() {
                    group.addTask { try job.run(threads: threadCounts[i % threadCounts.count]) }
                }
                try await group.waitForAll()
            }
        }

        /// Concurrent loops inside concurrent loops, and calls inside a parallel region of the same OpenMP runtime, which gives a
        /// nested region one thread or a team of its own.
        @Test func nestedCalls() {
            let jobs = (0..<16).map { Job(number: 200 + $0) }
            let failures = Failures()
            withLimits(parallelElements: 64) {
                DispatchQueue.concurrentPerform(iterations: 4) { outer in
                    DispatchQueue.concurrentPerform(iterations: 4) { inner in
                        failures.catching { try jobs[outer * 4 + inner].run(threads: 0) }
                    }
                }
                OpenMP.parallel(4) { index in
                    failures.catching { try jobs[index].run(threads: 3) }
                }
            }
            #expect(failures.all == [])
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

import CBareLoop
import Foundation

/// The time that a call takes.
func seconds(_ body: () throws -> Void) rethrows -> Double {
    let start = now()
    try body()
    return Double(now() - start) * 1e-9
}

/// Nanoseconds of a monotonic clock.
private func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// The times of one contestant, in seconds per step.
struct Timing: Codable {
    var median: Double
    /// The time for comparisons: a machine's other load only adds time, so the low end is the contestant's own.
    var lowerDecile: Double
    var lowerQuartile: Double
    var upperQuartile: Double
    var rounds: Int

    init(_ times: [Double]) {
        let sorted = times.sorted()
        func quantile(_ ratio: Double) -> Double {
            let rank = ratio * Double(sorted.count - 1)
            let lower = sorted[Int(rank)], upper = sorted[min(Int(rank) + 1, sorted.count - 1)]
            return lower + (rank - rank.rounded(.down)) * (upper - lower)
        }
        median = quantile(0.5)
        lowerDecile = quantile(0.1)
        lowerQuartile = quantile(0.25)
        upperQuartile = quantile(0.75)
        rounds = sorted.count
    }

    /// Whether the median is far above the low end, as on a shared core.
    var jumps: Bool { median > 2 * lowerDecile }

    /// The interquartile range as a share of the median.
    var spread: Double { (upperQuartile - lowerQuartile) / median }
}

/// The effort for a group of contestants.
struct MeasurementEffort {
    let seconds: Double
    let rounds: ClosedRange<Int>

    static let thorough = MeasurementEffort(seconds: 2, rounds: 15...2000)
    /// Steps are long enough that few rounds suffice.
    static let thoroughOnLargeTensors = MeasurementEffort(seconds: 3, rounds: 9...2000)
    static let quick = MeasurementEffort(seconds: 0.02, rounds: 3...10)
}

/// The contents of the caches when a batch begins. They would otherwise depend on the previous contestant: bare loops share their
/// tensors, so one finds another's data in the caches, while each step has its own tensors.
enum CacheState {
    /// The contestant's own tensors, for tensors that fit the caches.
    case warm
    /// Other data, for tensors that don't fit.
    case cold
}

/// Memory whose reading replaces the caches' contents.
private struct CacheFlush {
    private let words: [UInt64]
    private static let wordsPerLine = 8

    init() {
        #if canImport(Glibc)
            let cache = sysconf(Int32(_SC_LEVEL3_CACHE_SIZE))
        #else
            let cache = 0
        #endif
        words = [UInt64](repeating: 1, count: max(2 * cache, 64 << 20) / MemoryLayout<UInt64>.stride)
    }

    func run() {
        var sum: UInt64 = 0
        words.withUnsafeBufferPointer { words in
            for index in stride(from: 0, to: words.count, by: Self.wordsPerLine) { sum &+= words[index] }
        }
        // The check uses the sum, so the compiler can't drop the reads.
        precondition(sum == UInt64(words.count / Self.wordsPerLine))
    }
}

/// Contestants measured alternately: each round takes one batch of each, so all meet the machine in the same state.
struct Measurement {
    struct Outcome {
        let timing: Timing
        let allocationsPerStep: Double?
    }

    private(set) var outcomes: [Outcome] = []
    /// The number of rounds that were skipped because threads shared a core, or measured again.
    private(set) var repeatedRounds = 0
    /// Whether threads shared a core nevertheless, or times jumped.
    private(set) var isDisturbed = false

    /// Repeats a disturbed measurement, at most twice.
    static func repeatedIfDisturbed(
        _ contestants: [any Contestant], effort: MeasurementEffort, threads: Int, caches: CacheState
    ) throws -> Measurement {
        var measurement = try Measurement(contestants, effort: effort, threads: threads, caches: caches)
        for _ in 0..<2 where measurement.isDisturbed {
            let wasted = measurement.repeatedRounds + (measurement.outcomes.first?.timing.rounds ?? 0)
            measurement = try Measurement(contestants, effort: effort, threads: threads, caches: caches)
            measurement.repeatedRounds += wasted
        }
        return measurement
    }

    /// The length of a batch, at which the clock's resolution doesn't matter.
    private static let batchSeconds = 20e-6

    /// Untimed steps before a batch with warm caches. The first step's data don't all stay in the caches.
    private static let warmingSteps = 4

    init(_ contestants: [any Contestant], effort: MeasurementEffort, threads: Int, caches: CacheState) throws {
        var times = [[Double]](repeating: [], count: contestants.count)
        var allocations = [Int64](repeating: 0, count: contestants.count)
        var steps: [Int] = []
        for contestant in contestants {
            try contestant.prepare(steps: 2)
            try contestant.run(steps: 1)
            let one = try seconds { try contestant.run(steps: 1) }
            steps.append(min(max(Int(Self.batchSeconds / max(one, 1e-9)), 1), contestant.mostSteps))
        }

        let check = CoreCheck(threads: threads)
        let flush = caches == .cold ? CacheFlush() : nil
        var round = 0
        var spent = 0.0
        while round < effort.rounds.upperBound && (spent < effort.seconds || round < effort.rounds.lowerBound) {
            let begin = now()
            if !check.hasCoresOfTheirOwn() {
                repeatedRounds += 1
                if repeatedRounds <= 2 * effort.rounds.lowerBound {
                    usleep(2_000)
                    continue
                }
                isDisturbed = true
            }
            for turn in contestants.indices {
                // Each round begins with another contestant.
                let index = (turn + round) % contestants.count
                let contestant = contestants[index]
                try contestant.prepare(steps: steps[index] + Self.warmingSteps)
                if let flush { flush.run() } else { try contestant.run(steps: Self.warmingSteps) }
                let before = bare_allocation_count()
                let time = try seconds { try contestant.run(steps: steps[index]) }
                allocations[index] += bare_allocation_count() - before
                times[index].append(time / Double(steps[index]))
            }
            round += 1
            spent += Double(now() - begin) * 1e-9
        }
        outcomes = contestants.indices.map { index in
            let counted = bare_allocation_count() >= 0
            return Outcome(
                timing: Timing(times[index]),
                allocationsPerStep: counted ? Double(allocations[index]) / Double(steps[index] * round) : nil)
        }
        isDisturbed = isDisturbed || outcomes.contains { $0.timing.jumps }
    }
}

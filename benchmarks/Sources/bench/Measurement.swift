// SPDX-License-Identifier: Apache-2.0

import CBareLoop
import Foundation

/// The time that a call takes.
func seconds(_ body: () throws -> Void) rethrows -> Double {
    let start = now()
    try body()
    return Double(now() - start) * 1e-9
}

/// Nanoseconds of a clock that only goes forward.
private func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// The times of one contestant, in seconds per step.
struct Timing: Codable {
    var median: Double
    /// What to compare with others: a machine's other load only adds time, so the low end is the contestant's own.
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

    /// Whether the usual time is far above what it could be, as it is where a core is shared.
    var jumps: Bool { median > 2 * lowerDecile }

    /// The interquartile range as a share of the median.
    var spread: Double { (upperQuartile - lowerQuartile) / median }
}

/// How long a group of contestants is measured.
struct MeasurementEffort {
    let seconds: Double
    let rounds: ClosedRange<Int>

    static let thorough = MeasurementEffort(seconds: 2, rounds: 15...2000)
    /// Each step takes so long that few rounds say as much.
    static let thoroughOnLargeTensors = MeasurementEffort(seconds: 3, rounds: 9...2000)
    static let quick = MeasurementEffort(seconds: 0.02, rounds: 3...10)
}

/// What the caches hold when a batch begins. Otherwise it would depend on who came before: bare loops share their tensors, so that
/// one finds what another one left, and each step has tensors of its own.
enum CacheState {
    /// The contestant's own tensors, for those that fit.
    case warm
    /// Nothing of use, for those that don't.
    case cold
}

/// Memory to read that takes the caches.
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
        // What isn't used needn't be read.
        precondition(sum == UInt64(words.count / Self.wordsPerLine))
    }
}

/// Contestants measured alternately: one batch of each a round, and again, so that all of them meet the same machine.
struct Measurement {
    struct Outcome {
        let timing: Timing
        let allocationsPerStep: Double?
    }

    private(set) var outcomes: [Outcome] = []
    /// The number of rounds that were not measured because threads shared a core, or were measured once more.
    private(set) var repeatedRounds = 0
    /// Whether threads shared a core all the same, or times jumped.
    private(set) var isDisturbed = false

    /// Measures again, twice at most, what has come out disturbed.
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

    /// A batch is made so long that the clock's resolution doesn't count.
    private static let batchSeconds = 20e-6

    /// Steps before a batch that aren't timed, where caches are to be warm. What a first one takes from memory doesn't all stay.
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
                // Another one begins each round.
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

import DiffusionScheduling

/// Something that the results of one run should reach.
struct Goal: Codable {
    let name: String
    let target: Double
    /// The value that is farthest from the target, and where it was found.
    let worst: Double
    let place: String
    let isMet: Bool

    var line: String {
        "\(isMet ? "met    " : "MISSED ") \(name): worst \(decimal(worst, 2)), \(place)"
    }
}

extension Goal {
    /// The goals that the results say something about.
    static func all(for results: [StepResult]) -> [Goal] {
        let plain = results.filter { !$0.scheduler.contains("thresholded") }
        let large = plain.filter { $0.elements >= 3_000_000 }
        let cached = plain.filter { (16_000...600_000).contains($0.elements) }
        let smallest = plain.filter { $0.elements == 64 && $0.form == .inPlace }
        return [
            atLeast(0.95, "of the bare loop's bandwidth, 3.1 M elements and more", large.map { ($0.fractionOfBare, $0.name) }),
            atLeast(0.85, "of the bare loop's bandwidth, 16 K to 512 K elements", cached.map { ($0.fractionOfBare, $0.name) }),
            atLeast(
                1.6, "times the speed with two threads, 64 K to 512 K elements",
                pairs(cached.filter { $0.elements >= 64_000 }, { $0.threads == 1 }, { $0.threads == 2 })),
            atMost(
                0.55, "of the time of float32 for half types, 3.1 M elements and more, two threads",
                pairs(large.filter { $0.threads == 2 }, { $0.elementType.size == 2 }, { $0.elementType == .float32 })),
            atMost(80, "ns for a step in place of 64 elements", smallest.map { ($0.step.lowerDecile * 1e9, $0.name) }),
            atMost(0, "allocations for a step in place", results.filter { $0.form == .inPlace }.compactMap { result in
                result.allocationsPerStep.map { ($0, result.name) }
            }),
        ].compactMap { $0 }
    }

    private static func atLeast(_ target: Double, _ name: String, _ values: [(value: Double, place: String)]) -> Goal? {
        guard let worst = values.min(by: { $0.value < $1.value }) else { return nil }
        return Goal(
            name: "at least \(target) \(name)", target: target, worst: worst.value, place: worst.place, isMet: worst.value >= target)
    }

    private static func atMost(_ target: Double, _ name: String, _ values: [(value: Double, place: String)]) -> Goal? {
        guard let worst = values.max(by: { $0.value < $1.value }) else { return nil }
        return Goal(
            name: "at most \(target) \(name)", target: target, worst: worst.value, place: worst.place, isMet: worst.value <= target)
    }

    /// Times of the first kind as multiples of those of the second, where the two differ in nothing that `name` leaves.
    private static func pairs(
        _ results: [StepResult], _ first: (StepResult) -> Bool, _ second: (StepResult) -> Bool
    ) -> [(Double, String)] {
        results.filter(first).flatMap { a in
            results.filter(second).filter { b in
                let differsInThreads = a.threads != b.threads
                return a.scheduler == b.scheduler && a.order == b.order && a.elements == b.elements && a.form == b.form
                    && (!differsInThreads || a.elementType == b.elementType)
            }.map { b in (a.step.lowerDecile / b.step.lowerDecile, a.name) }
        }
    }
}

extension StepResult {
    /// The row's name, as the filter sees it.
    var name: String { "\(scheduler) \(order)/\(elementType.rawValue)/\(elements)/\(threads)/\(form.rawValue)" }
}

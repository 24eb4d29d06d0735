// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import DiffusionScheduling

/// NaN, infinities, denormals, −0 and huge values in one batch item of a run follow IEEE arithmetic, and the other items' bits
/// don't change.
@Suite struct HostileNumbersTests {
    static let configurations = [
        #"{"_class_name": "DEISMultistepScheduler", "solver_order": 3}"#,
        #"{"_class_name": "DEISMultistepScheduler", "solver_order": 2, "thresholding": true, "dynamic_thresholding_ratio": 0.9}"#,
        #"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": true}"#,
        #"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "thresholding": true, "sample_max_value": 3}"#,
        #"{"_class_name": "DPMSolverMultistepInverseScheduler", "solver_order": 2}"#,
        #"{"_class_name": "DDIMScheduler"}"#,
        #"{"_class_name": "DDIMScheduler", "clip_sample": false, "thresholding": true}"#,
        #"{"_class_name": "DDIMInverseScheduler"}"#,
    ]

    static let items = 4, elements = 37  // not a multiple of a vector

    private func run<Element: TensorElement & BinaryFloatingPoint>(
        _ plan: SamplingPlan, hostile: [Element], place: Int
    ) throws -> [[Element]] {
        var session = SamplingSession(plan: plan)
        var x = (0..<Self.items * Self.elements).map { Element(($0 * 37) % 64 - 32) / 16 }
        for (offset, value) in hostile.enumerated() { x[place * Self.elements + offset] = value }
        let noise = (0..<x.count).map { Element(($0 * 29) % 32 - 16) / 8 }
        while session.timestep != nil {
            let e = x.map { $0 / 2 + Element(0.125) }
            try session.step(modelOutput: e, sample: &x, noise: noise, batchSize: Self.items)
        }
        return (0..<Self.items).map { Array(x[$0 * Self.elements..<($0 + 1) * Self.elements]) }
    }

    private func check<Element: TensorElement & BinaryFloatingPoint>(_ json: String, _: Element.Type) throws {
        let plan = try SchedulerCatalog.makeScheduler(json: json).plan(.count(6))
        let clean = try run(plan, hostile: [Element](), place: 0)
        #expect(clean.allSatisfy { $0.allFinite })
        let values: [Element] = [
            .nan, .signalingNaN, .infinity, -.infinity, .leastNonzeroMagnitude, -.leastNonzeroMagnitude, .leastNormalMagnitude / 2,
            -0.0, .greatestFiniteMagnitude, -.greatestFiniteMagnitude,
        ]
        let sharesItsFate: Bool
        if case .dynamicThreshold = plan.clamp { sharesItsFate = true } else { sharesItsFate = false }
        for place in 0..<Self.items {
            for hostile in values.map({ [$0] }) + [values] {
                let result = try run(plan, hostile: hostile, place: place)
                for item in 0..<Self.items where item != place {
                    #expect(bits(result[item]) == bits(clean[item]), "\(hostile) in item \(place) reaches item \(item): \(json)")
                }
                // Elements of an item are independent, too, unless a threshold couples them.
                if !sharesItsFate {
                    #expect(bits(Array(result[place][hostile.count...])) == bits(Array(clean[place][hostile.count...])))
                }
                if hostile.count == 1, hostile[0].isNaN { #expect(result[place][0].isNaN) }
                // Denormals and −0 are ordinary numbers.
                if hostile.count == 1, abs(hostile[0]) < 1 { #expect(result[place].allFinite) }
            }
        }
    }

    @Test(arguments: configurations) func stayInTheirItem(_ json: String) throws {
        try check(json, Float.self)
        try check(json, Double.self)
        #if !(os(macOS) && arch(x86_64))
            try check(json, Float16.self)
        #endif
    }
}

// SPDX-License-Identifier: Apache-2.0

import CKernels
import DiffusionScheduling

/// Contestants measured together: one case at one size, in all element types, forms and numbers of threads, the bare loops with the
/// same streams, and the steps' other rivals. Ratios between any of these belong to one run.
struct StepGroup {
    let stepCase: StepCase
    let elements: Int

    /// The parameters in which the rows of a group differ.
    struct Variant {
        let types: TensorTypes
        let form: StepForm
        let threads: Int
    }

    private let variants: [Variant]

    /// - Parameter wants: whether a row, given by name, is to be measured.
    init(_ stepCase: StepCase, elements: Int, threadCounts: [Int], wants: (String) -> Bool) {
        self.stepCase = stepCase
        self.elements = elements
        var variants: [Variant] = []
        for types in stepCase.types where elements < StepCase.hugeElements || [.float32, .bfloat16].contains(types.element) {
            for form in stepCase.forms {
                for threads in threadCounts where threads == 1 || elements >= Int(dsk_get_limits().parallel_elements) {
                    let name = "\(stepCase.name)/\(types.name)/\(elements)/\(threads)/\(form.rawValue)"
                    if wants(name) { variants.append(Variant(types: types, form: form, threads: threads)) }
                }
            }
        }
        self.variants = variants
    }

    var isEmpty: Bool { variants.isEmpty }

    /// Verifies, then measures.
    func run(effort: MeasurementEffort, misalignment: Int) throws -> [StepResult] {
        let types = stepCase.types.filter { types in variants.contains { $0.types == types } }
        var errors: [TensorTypes: Double] = [:]
        for types in types {
            errors[types] = try types.verify(stepCase, count: elements, misalignment: misalignment)
        }
        // Variants are ordered by type, so the contestants have the same order.
        var contestants: [any Contestant] = [], rivals: [Rival?] = []
        for types in types {
            let made = try types.steppers(
                stepCase, variants.filter { $0.types == types }, count: elements, misalignment: misalignment)
            contestants += made.map(\.stepper)
            rivals += made.map(\.rival)
        }
        var rivalPlaces: [Int?] = []
        for rival in rivals {
            rivalPlaces.append(rival.map { _ in contestants.count })
            if let rival { contestants.append(rival.contestant) }
        }
        let memory = BareMemory(bytes: elements * (variants.map(\.types.element.size).max() ?? 0))
        var loops: [BareStreams: Int] = [:]
        for variant in variants {
            for streams in [streams(of: variant), copyStreams(of: variant)] where loops[streams] == nil {
                loops[streams] = contestants.count
                for store in Store.allCases { contestants.append(BareLoop(streams, store: store, memory: memory)) }
            }
        }

        let threads = variants.map(\.threads).max() ?? 1
        let measurement = try Measurement.repeatedIfDisturbed(
            contestants, effort: effort, threads: threads, caches: elements <= Self.mostCachedElements ? .warm : .cold)

        func bestLoop(_ streams: BareStreams) -> (timing: Timing, store: Store) {
            let first = loops[streams]!
            let timings = Store.allCases.indices.map { measurement.outcomes[first + $0].timing }
            let best = timings.indices.min { timings[$0].lowerDecile < timings[$1].lowerDecile }!
            return (timings[best], Store.allCases[best])
        }
        return variants.indices.map { index in
            let variant = variants[index], outcome = measurement.outcomes[index]
            let streams = streams(of: variant)
            let bare = bestLoop(streams), copy = bestLoop(copyStreams(of: variant))
            let outputReads = stepCase.modelOutputCount * stepCase.modelOutputReads
            let otherReads = stepCase.inputs.count - stepCase.modelOutputCount
            return StepResult(
                scheduler: stepCase.scheduler, order: stepCase.order, elementType: variant.types.element,
                modelOutputType: variant.types.modelOutput, elements: elements, threads: variant.threads, form: variant.form,
                reads: otherReads + outputReads, writes: streams.outputCount,
                bytes: elements
                    * ((otherReads + streams.outputCount) * variant.types.element.size
                        + outputReads * variant.types.modelOutput.size),
                step: outcome.timing, bare: bare.timing, bareStore: bare.store,
                bareBytes: (streams.inputCount + streams.outputCount) * streams.bytes,
                copy: copy.timing, copyStore: copy.store,
                comparison: rivals[index].map { rival in
                    StepComparison(name: rival.name, timing: measurement.outcomes[rivalPlaces[index]!].timing)
                },
                maximumErrorInULP: errors[variant.types] ?? 0, allocationsPerStep: outcome.allocationsPerStep,
                repeatedRounds: measurement.repeatedRounds, isDisturbed: measurement.isDisturbed)
        }
    }

    /// The largest number of float32 elements whose step's tensors fit a cache of a few ten megabytes.
    static let mostCachedElements = 1 << 20

    private func streams(of variant: Variant) -> BareStreams {
        BareStreams(
            inputCount: stepCase.inputs.count, outputCount: stepCase.outputCount(variant.form),
            inPlace: variant.form != .outOfPlace, bytes: elements * variant.types.element.size, threads: variant.threads)
    }

    private func copyStreams(of variant: Variant) -> BareStreams {
        BareStreams(
            inputCount: 1, outputCount: 1, inPlace: false, bytes: elements * variant.types.element.size, threads: variant.threads)
    }
}

/// A rival of a step besides the bare loops.
struct Rival {
    let name: String
    let contestant: any Contestant
}

/// The generic parts, by type. They are called with concrete types, so the compiler makes the code of a program with arrays of that
/// type.
extension TensorTypes {
    fileprivate func verify(_ stepCase: StepCase, count: Int, misalignment: Int) throws -> Double {
        func run<Element: BenchmarkElement, Output: BenchmarkElement>(_: Element.Type, _: Output.Type) throws -> Double {
            try Verification<Element, Output>(stepCase: stepCase, count: count, misalignment: misalignment).run()
        }
        switch (element, modelOutput) {
        case (.float32, .float32): return try run(Float.self, Float.self)
        case (.float32, .bfloat16): return try run(Float.self, BFloat16.self)
        case (.float64, .float64): return try run(Double.self, Double.self)
        case (.bfloat16, .bfloat16): return try run(BFloat16.self, BFloat16.self)
        #if !(os(macOS) && arch(x86_64))
            case (.float16, .float16): return try run(Float16.self, Float16.self)
            case (.float32, .float16): return try run(Float.self, Float16.self)
        #endif
        default: throw BenchmarkFailure("\(name) isn't measured")
        }
    }

    fileprivate func steppers(
        _ stepCase: StepCase, _ variants: [StepGroup.Variant], count: Int, misalignment: Int
    ) throws -> [(stepper: any Contestant, rival: Rival?)] {
        func make<Element: BenchmarkElement, Output: BenchmarkElement>(
            _: Element.Type, _: Output.Type
        ) throws -> [(stepper: any Contestant, rival: Rival?)] {
            try Steppers<Element, Output>(stepCase, count: count, misalignment: misalignment).make(variants)
        }
        switch (element, modelOutput) {
        case (.float32, .float32): return try make(Float.self, Float.self)
        case (.float32, .bfloat16): return try make(Float.self, BFloat16.self)
        case (.float64, .float64): return try make(Double.self, Double.self)
        case (.bfloat16, .bfloat16): return try make(BFloat16.self, BFloat16.self)
        #if !(os(macOS) && arch(x86_64))
            case (.float16, .float16): return try make(Float16.self, Float16.self)
            case (.float32, .float16): return try make(Float.self, Float16.self)
        #endif
        default: throw BenchmarkFailure("\(name) isn't measured")
        }
    }
}

/// Makes the timed contestants, for one element type of the tensors and one of the model outputs.
private struct Steppers<Element: BenchmarkElement, Output: BenchmarkElement> {
    private let stepCase: StepCase
    private let count: Int
    private let misalignment: Int
    private let data: StepData<Element, Output>

    init(_ stepCase: StepCase, count: Int, misalignment: Int) {
        self.stepCase = stepCase
        self.count = count
        self.misalignment = misalignment
        data = StepData(stepCase, count: count, misalignment: misalignment)
        data.fill(with: .random)
    }

    func make(_ variants: [StepGroup.Variant]) throws -> [(stepper: any Contestant, rival: Rival?)] {
        try variants.map { (try stepper($0.form, threads: $0.threads), try rival($0.form, threads: $0.threads)) }
    }

    private func tensor() -> Tensor<Element> { Tensor(count: count, misalignment: misalignment) }

    private func stepper(_ form: StepForm, threads: Int) throws -> any Contestant {
        switch form {
        case .inPlace: return SessionStepper(stepCase, data, maximumThreads: threads, sample: tensor())
        case .outOfPlace:
            return KernelStepper(stepCase, data, maximumThreads: threads, sample: tensor(), nextSample: tensor())
        case .consuming:
            guard let data = data as? StepData<Element, Element> else {
                throw BenchmarkFailure("\(stepCase.name): only outputs of the sample's type can be kept")
            }
            return try ConsumingStepper(stepCase, data, maximumThreads: threads, sample: tensor())
        }
    }

    private func rival(_ form: StepForm, threads: Int) throws -> Rival? {
        func plain<Other: BenchmarkElement>(_ name: String, _ data: StepData<Element, Other>) -> Rival {
            Rival(name: name, contestant: SessionStepper(stepCase.plain, data, maximumThreads: threads, sample: tensor()))
        }
        if stepCase.guidance != nil, let data = data as? StepData<Float, Float> {
            let sample = Tensor<Float>(count: count, misalignment: misalignment)
            return Rival(
                name: "passes", contestant: SeparateGuidance(stepCase, data, threads: threads, sample: sample))
        }
        if form == .consuming { return plain("copying", data) }
        if stepCase.plainPlan != nil { return form == .inPlace ? plain("plain", data) : nil }
        if Element.self != Output.self {
            let single = StepData<Element, Element>(stepCase, count: count, misalignment: misalignment)
            single.fill(with: .random)
            return plain(Element.elementType.rawValue, single)
        }
        if count > StepGroup.mostCachedElements { return nil }
        let sample = tensor()
        let loop = KernelStepper(
            stepCase, data, maximumThreads: threads, sample: sample, nextSample: form == .inPlace ? sample : tensor())
        return loop.byHand().map { Rival(name: StepComparison.byHand, contestant: $0) }
    }
}

import CKernels
import DiffusionScheduling

/// Everything that is measured together: one case at one size, in all element types, forms and numbers of threads, and the bare
/// loops with the same streams. Ratios between any of these are ratios in one run.
struct StepGroup {
    let stepCase: StepCase
    let elements: Int

    /// What distinguishes the rows of a group.
    struct Variant {
        let type: ElementType
        let form: StepForm
        let threads: Int
    }

    private let variants: [Variant]

    /// - Parameter wants: whether the row of that name is asked for.
    init(_ stepCase: StepCase, elements: Int, types: [ElementType], threadCounts: [Int], wants: (String) -> Bool) {
        self.stepCase = stepCase
        self.elements = elements
        var variants: [Variant] = []
        for type in types {
            for form in StepForm.allCases {
                for threads in threadCounts where threads == 1 || elements >= Int(dsk_get_limits().parallel_elements) {
                    let name = "\(stepCase.name)/\(type.rawValue)/\(elements)/\(threads)/\(form.rawValue)"
                    if wants(name) { variants.append(Variant(type: type, form: form, threads: threads)) }
                }
            }
        }
        self.variants = variants
    }

    var isEmpty: Bool { variants.isEmpty }

    /// Verifies, then measures.
    func run(effort: MeasurementEffort, misalignment: Int) throws -> [StepResult] {
        let types = ElementType.measured.filter { type in variants.contains { $0.type == type } }
        var errors: [ElementType: Double] = [:]
        var contestants: [any Contestant] = []
        for type in types {
            errors[type] = try type.verify(stepCase, count: elements, misalignment: misalignment)
        }
        // Variants come by type, so the contestants are in their order.
        for type in types {
            contestants += type.steppers(stepCase, variants.filter { $0.type == type }, count: elements, misalignment: misalignment)
        }
        let memory = BareMemory(bytes: elements * (variants.map(\.type.size).max() ?? 0))
        var loops: [BareStreams: Int] = [:]
        for variant in variants {
            for streams in [streams(of: variant), copyStreams(of: variant)] where loops[streams] == nil {
                loops[streams] = contestants.count
                for store in Store.allCases { contestants.append(BareLoop(streams, store: store, memory: memory)) }
            }
        }

        let threads = variants.map(\.threads).max() ?? 1
        let measurement = try Measurement.repeatedIfDisturbed(contestants, effort: effort, threads: threads, warms: fitsCaches)

        func bestLoop(_ streams: BareStreams) -> (timing: Timing, store: Store) {
            let first = loops[streams]!
            let timings = Store.allCases.indices.map { measurement.outcomes[first + $0].timing }
            let best = timings.indices.min { timings[$0].lowerDecile < timings[$1].lowerDecile }!
            return (timings[best], Store.allCases[best])
        }
        return zip(variants, measurement.outcomes).map { variant, outcome in
            let streams = streams(of: variant)
            let bare = bestLoop(streams), copy = bestLoop(copyStreams(of: variant))
            return StepResult(
                scheduler: stepCase.scheduler, order: stepCase.order, elementType: variant.type, elements: elements,
                threads: variant.threads, form: variant.form, reads: streams.inputCount, writes: streams.outputCount,
                step: outcome.timing, bare: bare.timing, bareStore: bare.store, copy: copy.timing, copyStore: copy.store,
                maximumErrorInULP: errors[variant.type] ?? 0, allocationsPerStep: outcome.allocationsPerStep,
                repeatedRounds: measurement.repeatedRounds, isDisturbed: measurement.isDisturbed)
        }
    }

    /// Whether the tensors of one float32 step fit a cache of a few ten megabytes.
    private var fitsCaches: Bool { elements <= 1 << 20 }

    private func streams(of variant: Variant) -> BareStreams {
        BareStreams(
            inputCount: stepCase.inputs.count, outputCount: stepCase.outputCount, inPlace: variant.form == .inPlace,
            bytes: elements * variant.type.size, threads: variant.threads)
    }

    private func copyStreams(of variant: Variant) -> BareStreams {
        BareStreams(inputCount: 1, outputCount: 1, inPlace: false, bytes: elements * variant.type.size, threads: variant.threads)
    }
}

/// The generic parts, by type: called with the types themselves, so that the compiler makes the code that a program with arrays of
/// that type has.
extension ElementType {
    /// The types that are measured, the usual one first.
    static var measured: [ElementType] {
        #if os(macOS) && arch(x86_64)
            [.float32, .bfloat16, .float64]
        #else
            [.float32, .float16, .bfloat16, .float64]
        #endif
    }

    fileprivate func verify(_ stepCase: StepCase, count: Int, misalignment: Int) throws -> Double {
        switch self {
        case .float32: try Verification<Float>(stepCase: stepCase, count: count, misalignment: misalignment).run()
        case .float64: try Verification<Double>(stepCase: stepCase, count: count, misalignment: misalignment).run()
        case .bfloat16: try Verification<BFloat16>(stepCase: stepCase, count: count, misalignment: misalignment).run()
        case .float16:
            #if os(macOS) && arch(x86_64)
                fatalError("Swift has no Float16 here")
            #else
                try Verification<Float16>(stepCase: stepCase, count: count, misalignment: misalignment).run()
            #endif
        }
    }

    fileprivate func steppers(
        _ stepCase: StepCase, _ variants: [StepGroup.Variant], count: Int, misalignment: Int
    ) -> [any Contestant] {
        switch self {
        case .float32: makeSteppers(Float.self, stepCase, variants, count: count, misalignment: misalignment)
        case .float64: makeSteppers(Double.self, stepCase, variants, count: count, misalignment: misalignment)
        case .bfloat16: makeSteppers(BFloat16.self, stepCase, variants, count: count, misalignment: misalignment)
        case .float16:
            #if os(macOS) && arch(x86_64)
                fatalError("Swift has no Float16 here")
            #else
                makeSteppers(Float16.self, stepCase, variants, count: count, misalignment: misalignment)
            #endif
        }
    }
}

private func makeSteppers<Element: BenchmarkElement>(
    _ type: Element.Type, _ stepCase: StepCase, _ variants: [StepGroup.Variant], count: Int, misalignment: Int
) -> [any Contestant] {
    let data = StepData<Element>(count: count, isStochastic: stepCase.isStochastic, misalignment: misalignment)
    data.fill(with: .random)
    func tensor() -> Tensor<Element> { Tensor(count: count, misalignment: misalignment) }
    return variants.map { variant in
        switch variant.form {
        case .inPlace: SessionStepper(stepCase, data, maximumThreads: variant.threads, sample: tensor())
        case .outOfPlace:
            KernelStepper(stepCase, data, maximumThreads: variant.threads, sample: tensor(), nextSample: tensor())
        }
    }
}

import CKernels
import DiffusionScheduling

/// The kernels without a session: runs the rows of a plan, each next sample in memory of its own.
///
/// That is what engines do that keep the sample a step was given, and what the C and Python layers come down to.
final class KernelStepper<Element: BenchmarkElement>: Contestant {
    private let data: StepData<Element>
    private let plan: SamplingPlan
    private let maximumThreads: UInt32
    private let batchSize: Int
    private let rows: UnsafeMutableBufferPointer<dsk_row>
    /// The sample, and where the next one goes; they change places at every step.
    private let samples: [Tensor<Element>]
    /// The remembered outputs: a ring, as a session has it.
    private let slots: [Tensor<Element>]
    /// The items of as many steps as it takes until the tensors are in their places again, but for the rows and model outputs.
    private var items: [[dsk_item]] = []
    private var stepIndex = 0
    /// Of each batch item, for the thresholds.
    private let workspace: UnsafeMutableRawPointer
    private let workspaceBytes: Int

    init(
        _ stepCase: StepCase, _ data: StepData<Element>, maximumThreads: Int, sample: Tensor<Element>, nextSample: Tensor<Element>
    ) {
        self.data = data
        plan = stepCase.plan
        self.maximumThreads = UInt32(maximumThreads)
        batchSize = stepCase.batchSize
        rows = .allocate(capacity: plan.stepCount)
        for index in 0..<plan.stepCount {
            let row = plan.coefficients(at: index, remembered: min(index, plan.historyLength))
            rows.initializeElement(at: index, to: dsk_row(row, clamp: plan.clamp))
        }
        workspaceBytes = dsk_threshold_workspace_size(data.count / batchSize)
        workspace = .allocate(byteCount: batchSize * workspaceBytes, alignment: 64)
        samples = [sample, nextSample]
        slots = (0..<plan.historyLength).map { _ in Tensor(count: data.count) }
        items = (0..<2 * max(plan.historyLength, 1)).map { step in (0..<batchSize).map { makeItem($0, step: step) } }
    }

    deinit {
        rows.deallocate()
        workspace.deallocate()
    }

    var sample: Tensor<Element> { samples[stepIndex % 2] }
    /// What the last step has remembered.
    var newestRemembered: Tensor<Element>? { slots.isEmpty ? nil : slots[(stepIndex - 1) % slots.count] }

    /// Goes to the start of the run.
    func restart() {
        stepIndex = 0
        sample.copy(from: data.start)
    }

    func prepare(steps: Int) throws {
        if stepIndex >= max(plan.historyLength, 1), stepIndex + steps < plan.stepCount { return }
        restart()
        try run(steps: max(plan.historyLength, 1))
    }

    func run(steps: Int) throws {
        for _ in 0..<steps {
            let phase = stepIndex % items.count
            let status = items[phase].withUnsafeMutableBufferPointer { step($0) }
            guard status == DSK_OK else { throw BenchmarkFailure(String(cString: dsk_status_message(status))) }
            stepIndex += 1
        }
    }

    private func step(_ items: UnsafeMutableBufferPointer<dsk_item>) -> dsk_status {
        let modelOutput = UnsafeRawPointer(data.modelOutput(step: stepIndex).baseAddress!)
        for index in items.indices {
            items[index].row = UnsafePointer(rows.baseAddress! + stepIndex)
            items[index].inputs.1 = modelOutput + index * itemBytes
        }
        if case .dynamicThreshold = plan.clamp {
            let status = dsk_find_thresholds(items.baseAddress, items.count, maximumThreads)
            if status != DSK_OK { return status }
        }
        return dsk_step(items.baseAddress, items.count, maximumThreads)
    }

    private var itemBytes: Int { data.count / batchSize * MemoryLayout<Element>.stride }

    private func makeItem(_ index: Int, step: Int) -> dsk_item {
        let offset = index * itemBytes
        var item = dsk_item()
        item.n_elements = data.count / batchSize
        item.workspace = workspace + index * workspaceBytes
        withUnsafeMutableBytes(of: &item.inputs) { bytes in
            let inputs = bytes.bindMemory(to: UnsafeRawPointer?.self)
            inputs[Int(DSK_SAMPLE.rawValue)] = UnsafeRawPointer(samples[step % 2].address + offset)
            inputs[Int(DSK_NOISE.rawValue)] = data.noise.map { UnsafeRawPointer($0.address + offset) }
            for age in slots.indices {
                // The newest output is where the step before has put it.
                let slot = slots[(step + slots.count - 1 - age) % slots.count]
                inputs[Int(DSK_SLOT_1.rawValue) + age] = UnsafeRawPointer(slot.address + offset)
            }
        }
        withUnsafeMutableBytes(of: &item.input_types) { bytes in
            bytes.bindMemory(to: dsk_element_type.self).update(repeating: Element.kernelType)
        }
        item.output_types = (Element.kernelType, Element.kernelType, Element.kernelType)
        item.outputs.0 = samples[(step + 1) % 2].address + offset
        // The oldest output makes room for this step's.
        if !slots.isEmpty { item.outputs.1 = slots[step % slots.count].address + offset }
        return item
    }
}

extension dsk_row {
    /// A plan's row as the kernels read it.
    init(_ step: StepCoefficients, clamp: PredictionClamp) {
        self.init()
        switch clamp {
        case .none: self.clamp = DSK_CLAMP_NONE
        case .range(let limit): (self.clamp, clamp_range) = (DSK_CLAMP_RANGE, limit)
        case .dynamicThreshold(let ratio, let maximum):
            (self.clamp, threshold_ratio, threshold_maximum) = (DSK_CLAMP_THRESHOLD, ratio, maximum)
        }
        prediction.0 = step.prediction.sample
        prediction.1 = step.prediction.modelOutput
        prediction.3 = step.prediction.noise
        withUnsafeMutableBytes(of: &outputs) { bytes in
            let terms = bytes.bindMemory(to: Double.self)
            func set(output: Int, to combination: LinearCombination) {
                let first = output * Int(DSK_TERM_COUNT.rawValue)
                terms[first + Int(DSK_SAMPLE.rawValue)] = combination.sample
                terms[first + Int(DSK_MODEL_OUTPUT.rawValue)] = combination.modelOutput
                terms[first + Int(DSK_NOISE.rawValue)] = combination.noise
                terms[first + Int(DSK_PREDICTION.rawValue)] = combination.prediction
                for (age, coefficient) in combination.history.enumerated() {
                    terms[first + Int(DSK_SLOT_1.rawValue) + age] = coefficient
                }
            }
            set(output: 0, to: step.nextSample)
            if let history = step.history { set(output: 1, to: history) }
        }
    }
}

/// Something that ends the benchmarks: a wrong result, or a call that failed.
struct BenchmarkFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

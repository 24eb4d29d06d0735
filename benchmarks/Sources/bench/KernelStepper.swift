// SPDX-License-Identifier: Apache-2.0

import CKernels
import DiffusionScheduling

/// The kernels without a session: runs the rows of a plan, each next sample in memory of its own.
///
/// That is what engines do that keep the sample a step was given, and what the C and Python layers come down to.
final class KernelStepper<Element: BenchmarkElement, Output: BenchmarkElement>: Contestant {
    private let data: StepData<Element, Output>
    private let plan: SamplingPlan
    private let maximumThreads: UInt32
    private let batchSize: Int
    private let guidance: Guidance?
    /// The row of a guided step.
    private let guidedRow: UnsafeMutablePointer<dsk_prepared_row>
    private let rows: UnsafeMutableBufferPointer<dsk_prepared_row>
    /// The sample, and where the next one goes; they change places at every step.
    private let samples: [Tensor<Element>]
    /// By their numbers. These solvers store one slot a step, in turn.
    private let slots: [Tensor<Element>]
    /// The items of as many steps as it takes until the tensors are in their places again, but for the rows and model outputs.
    private var items: [[dsk_item]] = []
    private var stepIndex = 0
    /// Of each batch item, for the thresholds.
    private let workspace: UnsafeMutableRawPointer
    private let workspaceBytes: Int

    init(
        _ stepCase: StepCase, _ data: StepData<Element, Output>, maximumThreads: Int, sample: Tensor<Element>,
        nextSample: Tensor<Element>
    ) {
        self.data = data
        plan = stepCase.plan
        self.maximumThreads = UInt32(maximumThreads)
        batchSize = stepCase.batchSize
        guidance = stepCase.guidance
        guidedRow = .allocate(capacity: 1)
        guidedRow.initialize(to: dsk_prepared_row())
        rows = .allocate(capacity: plan.stepCount)
        for index in 0..<plan.stepCount {
            let row = plan.row(at: index, age: index), ring = plan.slotCount
            precondition(row.stores.map(\.slot) == (ring > 0 ? [index % ring] : []), "the slots aren't stored in turn")
            let stored = (0..<min(index, ring)).map { (index - 1 - $0) % ring }
            var values = dsk_row(row, clamp: plan.clamp, slots: stored), prepared = dsk_prepared_row()
            precondition(dsk_prepare_row(&values, &prepared) == DSK_OK, "the clamp is out of range")
            rows.initializeElement(at: index, to: prepared)
        }
        workspaceBytes = dsk_threshold_workspace_size(data.count / batchSize)
        workspace = .allocate(byteCount: batchSize * workspaceBytes, alignment: 64)
        samples = [sample, nextSample]
        slots = (0..<plan.slotCount).map { _ in Tensor(count: data.count) }
        items = (0..<2 * max(plan.slotCount, 1)).map { step in (0..<batchSize).map { makeItem($0, step: step) } }
    }

    deinit {
        rows.deallocate()
        guidedRow.deallocate()
        workspace.deallocate()
    }

    var sample: Tensor<Element> { samples[stepIndex % 2] }
    func slot(_ slot: Int) -> Tensor<Element> { slots[slot] }

    /// Goes to the start of the run.
    func restart() {
        stepIndex = 0
        sample.copy(from: data.start)
    }

    func prepare(steps: Int) throws {
        if stepIndex >= max(plan.warmUp, 1), stepIndex + steps < plan.stepCount { return }
        restart()
        try run(steps: max(plan.warmUp, 1))
    }

    // Specialised by hand: a generic class has one method for all types, which would look the types up at every step.
    @_specialize(where Element == Float, Output == Float)
    @_specialize(where Element == Float, Output == BFloat16)
    @_specialize(where Element == Double, Output == Double)
    @_specialize(where Element == BFloat16, Output == BFloat16)
    #if !(os(macOS) && arch(x86_64))
        @_specialize(where Element == Float16, Output == Float16)@_specialize(where Element == Float, Output == Float16)
    #endif
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
        var row = UnsafePointer(rows.baseAddress! + stepIndex)
        if let guidance {
            let unconditional = UnsafeRawPointer(data.unconditional(step: stepIndex)!.baseAddress!)
            let status = guide(row, guidance, modelOutput, unconditional)
            if status != DSK_OK { return status }
            row = UnsafePointer(guidedRow)
            for index in items.indices { items[index].inputs.2 = unconditional }
        }
        for index in items.indices {
            items[index].row = row
            items[index].inputs.1 = modelOutput + index * itemElements * MemoryLayout<Output>.stride
        }
        if case .dynamicThreshold = plan.clamp {
            let status = dsk_find_thresholds(items.baseAddress, items.count, maximumThreads)
            if status != DSK_OK { return status }
        }
        return dsk_step(items.baseAddress, items.count, maximumThreads)
    }

    /// Makes the row of a guided step, whose batch is one item.
    private func guide(
        _ row: UnsafePointer<dsk_prepared_row>, _ guidance: Guidance, _ conditional: UnsafeRawPointer,
        _ unconditional: UnsafeRawPointer
    ) -> dsk_status {
        var factor = 1.0
        if guidance.rescale != 0 {
            var moments = dsk_moments()
            var first: UnsafeRawPointer? = conditional, second: UnsafeRawPointer? = unconditional
            let status = dsk_find_moments(Output.kernelType, &first, &second, 1, data.count, &moments, maximumThreads)
            if status != DSK_OK { return status }
            let g = guidance.scale, u = 1 - g
            let variance = g * g * moments.variance_a + u * u * moments.variance_b + 2 * g * u * moments.covariance
            let ratio = variance > 0 ? (moments.variance_a / variance).squareRoot() : 1
            factor = guidance.rescale * ratio + (1 - guidance.rescale)
        }
        dsk_guide_row(row, guidance.scale, factor, guidedRow)
        return DSK_OK
    }

    private var itemElements: Int { data.count / batchSize }
    private var itemBytes: Int { itemElements * MemoryLayout<Element>.stride }

    private func makeItem(_ index: Int, step: Int) -> dsk_item {
        let offset = index * itemBytes
        var item = dsk_item()
        item.n_elements = itemElements
        item.workspace = workspace + index * workspaceBytes
        withUnsafeMutableBytes(of: &item.inputs) { bytes in
            let inputs = bytes.bindMemory(to: UnsafeRawPointer?.self)
            inputs[Int(DSK_SAMPLE.rawValue)] = UnsafeRawPointer(samples[step % 2].address + offset)
            inputs[Int(DSK_NOISE.rawValue)] = data.noise.map { UnsafeRawPointer($0.address + offset) }
            for place in slots.indices {
                // The slot that the step before stored comes first.
                let slot = slots[(step + slots.count - 1 - place) % slots.count]
                inputs[Int(DSK_SLOT_1.rawValue) + place] = UnsafeRawPointer(slot.address + offset)
            }
        }
        withUnsafeMutableBytes(of: &item.input_types) { bytes in
            let types = bytes.bindMemory(to: dsk_element_type.self)
            types.update(repeating: Element.kernelType)
            types[Int(DSK_MODEL_OUTPUT.rawValue)] = Output.kernelType
            types[Int(DSK_MODEL_OUTPUT_2.rawValue)] = Output.kernelType
        }
        item.output_types = (Element.kernelType, Element.kernelType, Element.kernelType)
        item.outputs.0 = samples[(step + 1) % 2].address + offset
        // The slot that was stored first makes room.
        if !slots.isEmpty { item.outputs.1 = slots[step % slots.count].address + offset }
        return item
    }
}

extension dsk_row {
    /// A plan's row as the kernels read it.
    ///
    /// - Parameter slots: those that stand for the kernel's inputs from `DSK_SLOT_1` on.
    init(_ step: PlanRow, clamp: PredictionClamp, slots: [Int]) {
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
            func set(output: Int, to combination: Combination) {
                let first = output * Int(DSK_TERM_COUNT.rawValue)
                terms[first + Int(DSK_SAMPLE.rawValue)] = combination.sample
                terms[first + Int(DSK_MODEL_OUTPUT.rawValue)] = combination.modelOutput
                terms[first + Int(DSK_NOISE.rawValue)] = combination.noise
                terms[first + Int(DSK_PREDICTION.rawValue)] = combination.prediction
                for (place, slot) in slots.enumerated() {
                    terms[first + Int(DSK_SLOT_1.rawValue) + place] = combination[.slot(slot)]
                }
            }
            set(output: 0, to: step.nextSample)
            if let store = step.stores.first { set(output: 1, to: store.value) }
        }
    }
}

/// Something that ends the benchmarks: a wrong result, or a call that failed.
struct BenchmarkFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

// SPDX-License-Identifier: Apache-2.0

import CBareLoop
import CKernels
import DiffusionScheduling

/// The kernels without a session: runs the rows of a plan, with each next sample in separate memory.
///
/// Engines that keep the input sample do this, and so do the C and Python layers. Loops by hand replace the kernels at the same
/// addresses.
final class KernelStepper<Element: BenchmarkElement, Output: BenchmarkElement>: Contestant {
    private let data: StepData<Element, Output>
    private let plan: SamplingPlan
    private let maximumThreads: UInt32
    private let batchSize: Int
    private let guidance: Guidance?
    /// The row of a guided step.
    private let guidedRow: UnsafeMutablePointer<dsk_prepared_row>
    private let rows: UnsafeMutableBufferPointer<dsk_prepared_row>
    /// The sample and the memory for the next one, swapped at every step.
    private let samples: [Tensor<Element>]
    /// The slots by number.
    private let slots: [Tensor<Element>]
    /// The items of each step, without the rows and model outputs.
    private var items: [[dsk_item]] = []
    /// The rows for loops by hand, nil for rows without one; empty for the kernels.
    private var handRows: [hand_row?] = []
    private var stepIndex = 0
    /// Workspaces for the thresholds, one for each batch item.
    private let workspace: UnsafeMutableRawPointer
    private let workspaceBytes: Int

    /// - Parameter nextSample: the sample, for steps in place.
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
        var newest: [Int] = [], slotsRead: [[Int]] = []
        for index in 0..<plan.stepCount {
            let row = plan.row(at: index, age: index), combinations = [row.prediction, row.nextSample] + row.stores.map(\.value)
            // The library sums the most recently stored slot first.
            slotsRead.append(newest.filter { slot in combinations.contains { $0[.slot(slot)] != 0 } })
            for store in row.stores { newest = [store.slot] + newest.filter { $0 != store.slot } }
            var values = dsk_row(row, clamp: plan.clamp, slots: slotsRead[index]), prepared = dsk_prepared_row()
            precondition(dsk_prepare_row(&values, &prepared) == DSK_OK, "the clamp is out of range")
            rows.initializeElement(at: index, to: prepared)
        }
        workspaceBytes = dsk_threshold_workspace_size(data.count / batchSize)
        workspace = .allocate(byteCount: batchSize * workspaceBytes, alignment: 64)
        samples = [sample, nextSample]
        slots = (0..<plan.slotCount).map { _ in Tensor(count: data.count) }
        items = (0..<plan.stepCount).map { step in (0..<batchSize).map { makeItem($0, step: step, slotsRead[step]) } }
    }

    /// The steps in the midst of a run, by loops written by hand for their rows.
    ///
    /// - Returns: nil if one of these rows has no such loop.
    func byHand() -> KernelStepper? {
        guard let type = Element.handType, Element.self == Output.self, guidance == nil, batchSize == 1 else { return nil }
        handRows = (0..<plan.stepCount).map { step in
            guard var row = hand_row(rows[step], items[step][0], type), hand_has_loop(&row) else { return nil }
            return row
        }
        return handRows[max(plan.warmUp, 1)..<plan.stepCount - 1].contains { $0 == nil } ? nil : self
    }

    deinit {
        rows.deallocate()
        guidedRow.deallocate()
        workspace.deallocate()
    }

    var sample: Tensor<Element> { samples[stepIndex % 2] }
    func slot(_ slot: Int) -> Tensor<Element> { slots[slot] }

    /// Returns to the start of the run.
    func restart() {
        stepIndex = 0
        sample.copy(from: data.start)
    }

    func prepare(steps: Int) throws {
        if stepIndex >= max(plan.warmUp, 1), stepIndex + steps < plan.stepCount { return }
        restart()
        try run(steps: max(plan.warmUp, 1))
    }

    // Specialised by hand: a generic class has one method for all types, which would look up the types at every step.
    @_specialize(where Element == Float, Output == Float)
    @_specialize(where Element == Float, Output == BFloat16)
    @_specialize(where Element == Double, Output == Double)
    @_specialize(where Element == BFloat16, Output == BFloat16)
    #if !(os(macOS) && arch(x86_64))
        @_specialize(where Element == Float16, Output == Float16)@_specialize(where Element == Float, Output == Float16)
    #endif
    func run(steps: Int) throws {
        for _ in 0..<steps {
            if !handRows.isEmpty, handRows[stepIndex] != nil {
                handRows[stepIndex]!.inputs.1 = UnsafeRawPointer(data.modelOutput(step: stepIndex).baseAddress!)
                hand_run(&handRows[stepIndex]!, maximumThreads)
                stepIndex += 1
                continue
            }
            let status = items[stepIndex].withUnsafeMutableBufferPointer { step($0) }
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

    private func makeItem(_ index: Int, step: Int, _ slotsRead: [Int]) -> dsk_item {
        let offset = index * itemBytes
        var item = dsk_item()
        item.n_elements = itemElements
        item.workspace = workspace + index * workspaceBytes
        withUnsafeMutableBytes(of: &item.inputs) { bytes in
            let inputs = bytes.bindMemory(to: UnsafeRawPointer?.self)
            inputs[Int(DSK_SAMPLE.rawValue)] = UnsafeRawPointer(samples[step % 2].address + offset)
            inputs[Int(DSK_NOISE.rawValue)] = data.noise.map { UnsafeRawPointer($0.address + offset) }
            for (place, slot) in slotsRead.enumerated() {
                inputs[Int(DSK_SLOT_1.rawValue) + place] = UnsafeRawPointer(slots[slot].address + offset)
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
        withUnsafeMutableBytes(of: &item.outputs) { bytes in
            let outputs = bytes.bindMemory(to: UnsafeMutableRawPointer?.self)
            for (place, store) in plan.row(at: step, age: step).stores.enumerated() {
                outputs[1 + place] = slots[store.slot].address + offset
            }
        }
        return item
    }
}

extension dsk_row {
    /// A plan's row in the kernels' form.
    ///
    /// - Parameter slots: the slots at the kernel's inputs from `DSK_SLOT_1` on.
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
            for (place, store) in step.stores.enumerated() { set(output: 1 + place, to: store.value) }
        }
    }
}

extension hand_row {
    /// The row of an item, with its inputs renumbered; nil if the loops by hand can't express it.
    fileprivate init?(_ row: dsk_prepared_row, _ item: dsk_item, _ type: hand_type) {
        let isPlain = row.row.clamp != DSK_CLAMP_THRESHOLD && row.row.noise_factor == DSK_NOISE_FACTOR_NONE
        guard isPlain, row.row.prediction.3 == 0 else { return nil }
        self.init()
        self.type = type
        n_elements = item.n_elements
        prediction = (row.shortened.prediction.0, row.shortened.prediction.1)
        range = row.row.clamp == DSK_CLAMP_RANGE ? row.row.clamp_range : .infinity
        let termCount = Int(DSK_TERM_COUNT.rawValue), predictionTerm = Int(DSK_PREDICTION.rawValue)
        let all = type == HAND_FLOAT32 ? row.shortened.outputs : row.row.outputs
        let terms = withUnsafeBytes(of: all) { bytes in
            (0..<Int(DSK_OUTPUT_COUNT)).map {
                Array(bytes.bindMemory(to: Double.self)[$0 * termCount..<($0 + 1) * termCount])
            }
        }
        let outputs = terms.indices.filter { k in terms[k].contains { $0 != 0 } }
        let predicts = outputs.contains { terms[$0][predictionTerm] != 0 }
        let inputs = (0..<predictionTerm).filter { input in predicts && input < 2 || outputs.contains { terms[$0][input] != 0 } }
        guard inputs.count <= Int(HAND_MOST_INPUTS), inputs.prefix(2) == [0, 1] else { return nil }
        n_inputs = UInt32(inputs.count)
        withUnsafeMutableBytes(of: &self.inputs) { bytes in
            let own = bytes.bindMemory(to: UnsafeRawPointer?.self)
            withUnsafeBytes(of: item.inputs) { addresses in
                for (j, input) in inputs.enumerated() { own[j] = addresses.bindMemory(to: UnsafeRawPointer?.self)[input] }
            }
        }
        for (place, k) in outputs.enumerated() {
            var set = inputs.indices.reduce(UInt32(0)) { terms[k][inputs[$1]] == 0 ? $0 : $0 | 1 << UInt32($1) }
            if terms[k][predictionTerm] != 0 { set |= UInt32(HAND_READS_PREDICTION) }
            if terms[k].filter({ $0 != 0 }) == [1], terms[k][predictionTerm] == 0 { set |= UInt32(HAND_COPIES) }
            let values = inputs.map { terms[k][$0] }
            withUnsafeMutableBytes(of: &reads) { $0.bindMemory(to: UInt32.self)[place] = set }
            withUnsafeMutableBytes(of: &coefficients) { bytes in
                let width = Int(HAND_MOST_INPUTS) + 1, own = bytes.bindMemory(to: Double.self)
                for (j, value) in values.enumerated() { own[place * width + j] = value }
                own[place * width + width - 1] = terms[k][predictionTerm]
            }
            withUnsafeMutableBytes(of: &self.outputs) { bytes in
                bytes.bindMemory(to: UnsafeMutableRawPointer?.self)[place] = withUnsafeBytes(of: item.outputs) {
                    $0.bindMemory(to: UnsafeMutableRawPointer?.self)[k]
                }
            }
        }
    }
}

/// An error that ends the benchmarks: a wrong result, or a failed call.
struct BenchmarkFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

// SPDX-License-Identifier: Apache-2.0

internal import CKernels

/// The calls into the C core. Everything that imports CKernels is in this folder.
enum Kernels {
    /// Executes a row of a plan.
    ///
    /// - Parameter workspace: where `needsWorkspace` says so.
    @inline(__always)
    static func step(
        _ row: UnsafePointer<dsk_row>, _ tensors: StepTensors, history: HistoryRing? = nil, keepsModelOutput: Bool = false,
        guidance: Guidance? = nil, batchSize: Int, workspace: StepWorkspace?, maximumThreads: Int = 0
    ) {
        if let workspace {
            let itemBytes = tensors.elementCount / batchSize * tensors.elementType.size
            step(count: batchSize, tensors, workspace: workspace, maximumThreads: maximumThreads) { index in
                StepItem(
                    row: row, history: history, historyOffset: index * itemBytes, guidance: guidance,
                    thresholds: workspace.thresholdWorkspace(of: index))
            }
            return
        }
        var item = dsk_item()
        item.set(tensors, history, keepsModelOutput: keepsModelOutput)
        if let guidance {
            var guided = dsk_row()
            dsk_guide_row(row, guidance.scale, 1, &guided)
            withUnsafePointer(to: &guided) { guided in
                item.row = guided
                check(dsk_step(&item, 1, UInt32(clamping: maximumThreads)))
            }
        } else {
            item.row = row
            check(dsk_step(&item, 1, UInt32(clamping: maximumThreads)))
        }
    }

    /// Whether a step is made of several items, or of one that takes more than one pass.
    @inline(__always)
    static func needsWorkspace(clamp: PredictionClamp, modelOutputParts: Int, batchSize: Int, guidance: Guidance?) -> Bool {
        if case .dynamicThreshold = clamp { return true }
        return (modelOutputParts > 1 && batchSize > 1) || (guidance != nil && guidance?.rescale != 0)
    }

    /// A workspace for a step without a session, if it needs one.
    static func workspace(
        clamp: PredictionClamp, for tensors: StepTensors, batchSize: Int
    ) throws(SchedulerError) -> StepWorkspace? {
        guard needsWorkspace(clamp: clamp, modelOutputParts: tensors.modelOutputParts, batchSize: batchSize, guidance: nil) else {
            return nil
        }
        return try StepWorkspace(itemCount: batchSize, elementsPerItem: tensors.elementCount / batchSize, findsThresholds: true)
    }

    /// Executes a row for each of so many equal parts of the tensors, in one parallel region.
    ///
    /// - Parameter item: what each of them is; nil where a part is to be left as it is.
    static func step(
        count: Int, _ tensors: StepTensors, workspace: StepWorkspace, maximumThreads: Int, item: (Int) -> StepItem?
    ) {
        let threads = UInt32(clamping: maximumThreads), items = workspace.items
        let elements = tensors.elementCount / count
        var itemCount = 0, rescaledCount = 0, hasThresholds = false
        for index in 0..<count {
            guard let step = item(index) else { continue }
            var prepared = dsk_item()
            prepared.set(tensors.part(index, of: count), step.history, historyOffset: step.historyOffset)
            prepared.row = step.row
            if let guidance = step.guidance {
                // Rows are guided in two rounds: the factors are found for all items at once.
                dsk_guide_row(step.row, guidance.scale, 1, workspace.rows + itemCount)
                prepared.row = UnsafePointer(workspace.rows + itemCount)
                if guidance.rescale != 0 {
                    workspace.outputs[rescaledCount] = prepared.inputs.1
                    workspace.outputs[workspace.itemCount + rescaledCount] = prepared.inputs.2
                    rescaledCount += 1
                }
            }
            if step.row.pointee.clamp == DSK_CLAMP_THRESHOLD {
                prepared.workspace = step.thresholds
                hasThresholds = true
            }
            items[itemCount] = prepared
            itemCount += 1
        }
        if rescaledCount > 0 {
            check(
                dsk_find_moments(
                    tensors.modelOutputType.kernelType, workspace.outputs, workspace.outputs + workspace.itemCount, rescaledCount,
                    elements, workspace.moments, threads))
            let host = FloatingPointEnvironment.begin()
            defer { host.end() }
            var place = 0, rescaled = 0
            for index in 0..<count {
                guard let step = item(index) else { continue }
                if let guidance = step.guidance, guidance.rescale != 0 {
                    let moments = workspace.moments[rescaled]
                    let factor = guidance.factor(
                        conditionalVariance: moments.variance_a, unconditionalVariance: moments.variance_b,
                        covariance: moments.covariance)
                    dsk_guide_row(step.row, guidance.scale, factor, workspace.rows + place)
                    rescaled += 1
                }
                place += 1
            }
        }
        if hasThresholds { check(dsk_find_thresholds(items, itemCount, threads)) }
        check(dsk_step(items, itemCount, threads))
    }

    /// Executes a step of its own, without history.
    static func step(
        _ step: StepCoefficients, clamp: PredictionClamp, _ tensors: StepTensors, batchSize: Int, workspace: StepWorkspace?,
        maximumThreads: Int = 0
    ) {
        withUnsafePointer(to: dsk_row(step, clamp: clamp)) { row in
            self.step(row, tensors, batchSize: batchSize, workspace: workspace, maximumThreads: maximumThreads)
        }
    }

    /// Σ coefficient · tensor over at most six tensors of one size.
    static func combine<Element: TensorElement>(_ terms: [(coefficient: Double, tensor: [Element])]) -> [Element] {
        let step = StepCoefficients(
            prediction: LinearCombination(), nextSample: LinearCombination(history: terms.map(\.coefficient)))
        let count = terms.first?.tensor.count ?? 0
        return [Element](unsafeUninitializedCapacity: count) { out, initializedCount in
            var row = dsk_row(step, clamp: .none)
            var item = dsk_item()
            item.n_elements = count
            item.setTypes(Element.elementType)
            item.outputs.0 = UnsafeMutableRawPointer(out.baseAddress)
            func execute(_ rest: ArraySlice<(coefficient: Double, tensor: [Element])>) {
                guard let term = rest.first else {
                    withUnsafePointer(to: &row) { row in
                        item.row = row
                        check(dsk_step(&item, 1, 0))
                    }
                    return
                }
                term.tensor.withUnsafeBytes { bytes in
                    withUnsafeMutableBytes(of: &item.inputs) { inputs in
                        inputs.bindMemory(to: UnsafeRawPointer?.self)[Int(DSK_SLOT_1.rawValue) + rest.startIndex] =
                            bytes.baseAddress
                    }
                    execute(rest.dropFirst())
                }
            }
            execute(terms[...])
            initializedCount = count
        }
    }

    /// sample[i] ← signalRates[i] · sample[i] + noiseRates[i] · noise[i] for every batch item i.
    static func addNoise(
        _ noise: UnsafeRawPointer, to sample: UnsafeMutableRawPointer, signalRates: [Double], noiseRates: [Double],
        elementsPerItem: Int, elementType: ElementType
    ) {
        check(
            dsk_add_noise(
                elementType.kernelType, sample, noise, signalRates, noiseRates, signalRates.count, elementsPerItem, sample, 0))
    }

    /// tensor[i] ← factors[i] · tensor[i] for every batch item i.
    static func scale<Element: TensorElement>(_ tensor: inout [Element], by factors: [Double]) {
        let elements = tensor.count / factors.count
        tensor.withUnsafeMutableBytes { bytes in
            guard let address = bytes.baseAddress else { return }
            for (index, factor) in factors.enumerated() {
                let item = address + index * elements * MemoryLayout<Element>.stride
                check(dsk_scale(Element.elementType.kernelType, item, factor, elements, item, 0))
            }
        }
    }

    /// The variances of every batch item of two tensors.
    static func moments<Element: TensorElement>(
        _ a: [Element], _ b: [Element], batchSize: Int
    ) -> [(varianceA: Double, varianceB: Double)] {
        var moments = [dsk_moments](repeating: dsk_moments(), count: batchSize)
        let elements = a.count / batchSize
        a.withUnsafeBytes { a in
            b.withUnsafeBytes { b in
                func items(_ bytes: UnsafeRawBufferPointer) -> [UnsafeRawPointer?] {
                    (0..<batchSize).map { item in bytes.baseAddress.map { $0 + item * elements * MemoryLayout<Element>.stride } }
                }
                check(dsk_find_moments(Element.elementType.kernelType, items(a), items(b), batchSize, elements, &moments, 0))
            }
        }
        return moments.map { ($0.variance_a, $0.variance_b) }
    }

    /// Which OpenMP runtime carries the threads.
    static var runtimeDescription: String { String(cString: dsk_runtime_description()) }

    /// What the Swift layer hands to the kernels is checked before, so a status here is a fault of this library.
    private static func check(_ status: dsk_status) {
        assert(status == DSK_OK, String(cString: dsk_status_message(status)))
    }
}

extension ElementType {
    fileprivate var kernelType: dsk_element_type {
        switch self {
        case .float32: DSK_FLOAT32
        case .float64: DSK_FLOAT64
        case .float16: DSK_FLOAT16
        case .bfloat16: DSK_BFLOAT16
        }
    }
}

extension dsk_item {
    /// All tensors have elements of the type, but for the model output where it has another one.
    fileprivate mutating func setTypes(_ type: ElementType, modelOutput: ElementType? = nil) {
        let type = type.kernelType
        input_types = (type, type, type, type, type, type, type, type, type, type)
        output_types = (type, type, type)
        if let modelOutput {
            input_types.1 = modelOutput.kernelType
            input_types.2 = modelOutput.kernelType
        }
    }

    /// Becomes the item of the tensors. Not an initialiser, which would copy what it has just written.
    ///
    /// - Parameters:
    ///   - historyOffset: where the item begins in the history's slots, in bytes.
    ///   - keepsModelOutput: whether the model output's memory will be what is remembered, so that nothing is written.
    @inline(__always)
    fileprivate mutating func set(
        _ tensors: StepTensors, _ history: HistoryRing?, historyOffset: Int = 0, keepsModelOutput: Bool = false
    ) {
        n_elements = tensors.elementCount
        setTypes(tensors.elementType, modelOutput: tensors.modelOutputType)
        inputs.0 = tensors.sample
        inputs.1 = tensors.modelOutput
        inputs.2 = tensors.unconditional
        inputs.3 = tensors.noise
        outputs.0 = tensors.nextSample
        outputs.2 = tensors.prediction
        guard let history else { return }
        let slots = history.slotCount
        // The oldest output makes room for this step's, which is written where it was read.
        var slot = history.next
        if !keepsModelOutput { outputs.1 = history.slots[slot] + historyOffset }
        withUnsafeMutableBytes(of: &inputs) { bytes in
            let inputs = bytes.assumingMemoryBound(to: UnsafeRawPointer?.self)
            for age in (0..<slots).reversed() {
                inputs[Int(DSK_SLOT_1.rawValue) + age] = UnsafeRawPointer(history.slots[slot] + historyOffset)
                slot = slot + 1 == slots ? 0 : slot + 1
            }
        }
    }
}

/// One of the items that a step consists of: a batch item of one session, or a session of its own.
struct StepItem {
    let row: UnsafePointer<dsk_row>
    let history: HistoryRing?
    /// Where the item begins in the slots, in bytes.
    var historyOffset = 0
    let guidance: Guidance?
    /// Room for finding a threshold, for rows that clamp by one.
    let thresholds: UnsafeMutableRawPointer?
}

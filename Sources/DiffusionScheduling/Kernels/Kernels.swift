// SPDX-License-Identifier: Apache-2.0

internal import CKernels

/// The calls into the C core. Everything that imports CKernels is in this folder.
enum Kernels {
    /// Executes a row.
    ///
    /// - Parameters:
    ///   - slots: the addresses of the slots; nil where the row has none.
    ///   - keepsModelOutput: whether the model output's memory becomes the slot of the store `row.keptOutput`, which is then not
    ///     written.
    ///   - nextInputScale: the input scale of the evaluation after this one, for the model's input there.
    ///   - workspace: required if `needsWorkspace` is true.
    @inline(__always)
    static func step(
        _ row: UnsafePointer<KernelRow>, _ tensors: StepTensors, slots: UnsafePointer<UnsafeMutableRawPointer>? = nil,
        keepsModelOutput: Bool = false, nextInputScale: Double = 1, guidance: Guidance? = nil, batchSize: Int,
        workspace: StepWorkspace?, maximumThreads: Int = 0
    ) throws(SchedulerError) {
        if tensors.modelInput == nil, tensors.report == nil || row.pointee.storeCount < 2 {
            return try run(
                .step, UnsafeRawPointer(row).assumingMemoryBound(to: dsk_prepared_row.self), of: row, tensors, slots,
                keepsModelOutput: keepsModelOutput, guidance: guidance, batchSize: batchSize, workspace: workspace,
                maximumThreads: maximumThreads)
        }
        try stepWithExtras(
            row, tensors, slots, keepsModelOutput: keepsModelOutput, nextInputScale: nextInputScale, guidance: guidance,
            batchSize: batchSize, workspace: workspace, maximumThreads: maximumThreads)
    }

    /// A step that writes the next model input, or a report that the row has no output left for.
    @inline(never)
    private static func stepWithExtras(
        _ row: UnsafePointer<KernelRow>, _ tensors: StepTensors, _ slots: UnsafePointer<UnsafeMutableRawPointer>?,
        keepsModelOutput: Bool, nextInputScale: Double, guidance: Guidance?, batchSize: Int, workspace: StepWorkspace?,
        maximumThreads: Int
    ) throws(SchedulerError) {
        func run(_ pass: StepPass, _ kernelRow: UnsafePointer<dsk_prepared_row>) throws(SchedulerError) {
            try Self.run(
                pass, kernelRow, of: row, tensors, slots, keepsModelOutput: keepsModelOutput, guidance: guidance,
                batchSize: batchSize, workspace: workspace, maximumThreads: maximumThreads)
        }
        let takesTwoPasses = row.pointee.storeCount == 2 || (tensors.report != nil && tensors.modelInput != nil)
        let extended = try row.pointee.withModelInput(nextInputScale, beside: takesTwoPasses)
        if !takesTwoPasses {
            return try withUnsafePointer(to: extended) { (extended) throws(SchedulerError) in try run(.step, extended) }
        }
        // The pass for the extras comes first, because the step may be in place.
        for (name, address) in [("pred_original_sample", tensors.report), ("the next model input", tensors.modelInput)] {
            guard let address, tensors.elementCount > 0, tensors.inputs(contain: UnsafeRawPointer(address)) else { continue }
            throw .invalidValue(
                key: name, value: "the memory of an input",
                allowed: "memory of its own where a step takes a second pass: it stores two slots, or both of these are wanted")
        }
        try withUnsafePointer(to: extended) { (extended) throws(SchedulerError) in try run(.extras, extended) }
        try run(.stepAlone, UnsafeRawPointer(row).assumingMemoryBound(to: dsk_prepared_row.self))
    }

    /// A pass of a step.
    ///
    /// The tensors come as an argument rather than as a member of the call: copying them would wait for the stores that have just
    /// written them.
    ///
    /// - Parameter kernelRow: the row whose outputs the pass writes.
    @inline(__always)
    private static func run(
        _ pass: StepPass, _ kernelRow: UnsafePointer<dsk_prepared_row>, of row: UnsafePointer<KernelRow>, _ tensors: StepTensors,
        _ slots: UnsafePointer<UnsafeMutableRawPointer>?, keepsModelOutput: Bool, guidance: Guidance?, batchSize: Int,
        workspace: StepWorkspace?, maximumThreads: Int
    ) throws(SchedulerError) {
        if let workspace {
            let itemBytes = tensors.elementCount / batchSize * tensors.elementType.size
            return try step(count: batchSize, tensors, pass: pass, workspace: workspace, maximumThreads: maximumThreads) { index in
                StepItem(
                    row: row, kernelRow: kernelRow, slots: slots, slotOffset: index * itemBytes, guidance: guidance,
                    thresholds: workspace.thresholdWorkspace(of: index))
            }
        }
        var item = dsk_item()
        item.set(tensors, row, slots, pass: pass, keepsModelOutput: keepsModelOutput)
        if let guidance {
            var guided = dsk_prepared_row()
            dsk_guide_row(kernelRow, guidance.scale, 1, &guided)
            withUnsafePointer(to: &guided) { guided in
                item.row = guided
                dsk_run(&item, 1, UInt32(clamping: maximumThreads))
            }
        } else {
            item.row = kernelRow
            dsk_run(&item, 1, UInt32(clamping: maximumThreads))
        }
    }

    /// Whether a step is made of several items, or of one that takes more than one pass.
    @inline(__always)
    static func needsWorkspace(findsThresholds: Bool, modelOutputParts: Int, batchSize: Int, guidance: Guidance?) -> Bool {
        findsThresholds || (modelOutputParts > 1 && batchSize > 1) || (guidance != nil && guidance?.rescale != 0)
    }

    /// A workspace for a step without a session, if it needs one.
    static func workspace(
        for row: UnsafePointer<KernelRow>, _ tensors: StepTensors, batchSize: Int
    ) throws(SchedulerError) -> StepWorkspace? {
        guard
            needsWorkspace(
                findsThresholds: row.pointee.findsThresholds, modelOutputParts: tensors.modelOutputParts, batchSize: batchSize,
                guidance: nil)
        else { return nil }
        return try StepWorkspace(itemCount: batchSize, elementsPerItem: tensors.elementCount / batchSize, findsThresholds: true)
    }

    /// Executes a row for each of `count` equal parts of the tensors, in one parallel region.
    ///
    /// - Parameter item: the item of each part; nil leaves the part unchanged.
    static func step(
        count: Int, _ tensors: StepTensors, pass: StepPass = .step, workspace: StepWorkspace, maximumThreads: Int,
        item: (Int) -> StepItem?
    ) throws(SchedulerError) {
        let threads = UInt32(clamping: maximumThreads), items = workspace.items
        let elements = tensors.elementCount / count
        var itemCount = 0, rescaledCount = 0, hasThresholds = false
        for index in 0..<count {
            guard let step = item(index) else { continue }
            var prepared = dsk_item()
            prepared.set(tensors.part(index, of: count), step.row, step.slots, slotOffset: step.slotOffset, pass: pass)
            let row = step.kernelRow
            prepared.row = row
            if let guidance = step.guidance {
                // Rows are guided in two rounds: the factors are found for all items at once.
                dsk_guide_row(row, guidance.scale, 1, workspace.rows + itemCount)
                prepared.row = UnsafePointer(workspace.rows + itemCount)
                if guidance.rescale != 0 {
                    workspace.outputs[rescaledCount] = prepared.inputs.1
                    workspace.outputs[workspace.itemCount + rescaledCount] = prepared.inputs.2
                    rescaledCount += 1
                }
            }
            if step.row.pointee.findsThresholds {
                prepared.workspace = step.thresholds
                hasThresholds = true
            }
            items[itemCount] = prepared
            itemCount += 1
        }
        if rescaledCount > 0 {
            try check(
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
                    dsk_guide_row(step.kernelRow, guidance.scale, factor, workspace.rows + place)
                    rescaled += 1
                }
                place += 1
            }
        }
        if hasThresholds { try check(dsk_find_thresholds(items, itemCount, threads)) }
        dsk_run(items, itemCount, threads)
    }

    /// Σ coefficient · tensor over at most six tensors of one size.
    static func combine<Element: TensorElement>(
        _ terms: [(coefficient: Double, tensor: [Element])]
    ) throws(SchedulerError) -> [Element] {
        var order = SlotOrder()
        for slot in terms.indices.reversed() { order.store(slot) }
        let sum = PlanRow(prediction: Combination(), nextSample: Combination(slots: terms.map(\.coefficient)))
        // Tensors with the coefficient 0 aren't read; the others move up.
        let tensors = terms.filter { $0.coefficient != 0 }
        let count = terms.first?.tensor.count ?? 0
        let row = try KernelRow(sum, clamp: .none, slotOrder: order)
        var failure: SchedulerError?
        let result = [Element](unsafeUninitializedCapacity: count) { out, initializedCount in
            var item = dsk_item()
            item.n_elements = count
            item.setTypes(Element.elementType)
            item.outputs.0 = UnsafeMutableRawPointer(out.baseAddress)
            func execute(_ place: Int) {
                guard place < tensors.count else {
                    withUnsafePointer(to: row.row) { row in
                        item.row = row
                        do throws(SchedulerError) { try check(dsk_step(&item, 1, 0)) } catch { failure = error }
                    }
                    return
                }
                tensors[place].tensor.withUnsafeBytes { bytes in
                    withUnsafeMutableBytes(of: &item.inputs) { inputs in
                        inputs.bindMemory(to: UnsafeRawPointer?.self)[Int(DSK_SLOT_1.rawValue) + place] = bytes.baseAddress
                    }
                    execute(place + 1)
                }
            }
            execute(0)
            initializedCount = failure == nil ? count : 0
        }
        if let failure { throw failure }
        return result
    }

    /// sample[i] ← signalRates[i] · sample[i] + noiseRates[i] · noise[i] for every batch item i.
    static func addNoise(
        _ noise: UnsafeRawPointer, to sample: UnsafeMutableRawPointer, signalRates: [Double], noiseRates: [Double],
        elementsPerItem: Int, elementType: ElementType
    ) throws(SchedulerError) {
        try check(
            dsk_add_noise(
                elementType.kernelType, sample, noise, signalRates, noiseRates, signalRates.count, elementsPerItem, sample, 0))
    }

    /// tensor ← factor · tensor
    static func scale(
        _ tensor: UnsafeMutableRawPointer, by factor: Double, elementCount: Int, elementType: ElementType
    ) throws(SchedulerError) {
        try check(dsk_scale(elementType.kernelType, tensor, factor, elementCount, tensor, 0))
    }

    /// tensor[i] ← factors[i] · tensor[i] for every batch item i.
    static func scale<Element: TensorElement>(_ tensor: inout [Element], by factors: [Double]) throws(SchedulerError) {
        let elements = tensor.count / factors.count
        var span = tensor.mutableSpan
        try span.withUnsafeMutableBytes { (bytes) throws(SchedulerError) in
            guard let address = bytes.baseAddress else { return }
            for (index, factor) in factors.enumerated() {
                let item = address + index * elements * MemoryLayout<Element>.stride
                try check(dsk_scale(Element.elementType.kernelType, item, factor, elements, item, 0))
            }
        }
    }

    /// The variances of every batch item of two tensors.
    static func moments<Element: TensorElement>(
        _ a: [Element], _ b: [Element], batchSize: Int
    ) throws(SchedulerError) -> [(varianceA: Double, varianceB: Double)] {
        var moments = [dsk_moments](repeating: dsk_moments(), count: batchSize)
        let elements = a.count / batchSize
        func items(_ bytes: UnsafeRawBufferPointer) -> [UnsafeRawPointer?] {
            (0..<batchSize).map { item in bytes.baseAddress.map { $0 + item * elements * MemoryLayout<Element>.stride } }
        }
        try check(
            a.withUnsafeBytes { a in
                b.withUnsafeBytes { b in
                    dsk_find_moments(Element.elementType.kernelType, items(a), items(b), batchSize, elements, &moments, 0)
                }
            })
        return moments.map { ($0.variance_a, $0.variance_b) }
    }

    /// The Swift layer checks the arguments of the kernels, so a status here is a fault of this library. The kernels have written nothing
    /// then.
    @inline(__always)
    static func check(_ status: dsk_status) throws(SchedulerError) {
        if status != DSK_OK { throw .kernelFailure(reason: String(cString: dsk_status_message(status))) }
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
    /// Sets the type of all tensors; the model output may have another one.
    fileprivate mutating func setTypes(_ type: ElementType, modelOutput: ElementType? = nil) {
        let type = type.kernelType
        input_types = (type, type, type, type, type, type, type, type, type, type, type)
        output_types = (type, type, type)
        if let modelOutput {
            input_types.1 = modelOutput.kernelType
            input_types.2 = modelOutput.kernelType
            input_types.10 = modelOutput.kernelType
        }
    }

    /// Sets the item from the tensors. An initialiser would copy the result once more.
    ///
    /// - Parameters:
    ///   - slotOffset: the item's place in the slots, in bytes.
    ///   - keepsModelOutput: whether the model output's memory becomes the slot of the store `row.keptOutput`, which is then not
    ///     written.
    @inline(__always)
    fileprivate mutating func set(
        _ tensors: StepTensors, _ row: UnsafePointer<KernelRow>, _ slots: UnsafePointer<UnsafeMutableRawPointer>?,
        slotOffset: Int = 0, pass: StepPass, keepsModelOutput: Bool = false
    ) {
        n_elements = tensors.elementCount
        setTypes(tensors.elementType, modelOutput: tensors.modelOutputType)
        inputs.0 = tensors.sample
        inputs.1 = tensors.modelOutput
        inputs.2 = tensors.unconditional
        inputs.3 = tensors.noise
        inputs.10 = tensors.variance
        if let slots {
            withUnsafeMutableBytes(of: &inputs) { bytes in
                let inputs = bytes.assumingMemoryBound(to: UnsafeRawPointer?.self)
                for place in 0..<row.pointee.slotCount {
                    inputs[Int(DSK_SLOT_1.rawValue) + place] = UnsafeRawPointer(slots[Int(row.pointee.slots[place])] + slotOffset)
                }
            }
        }
        if pass == .extras {
            outputs.0 = tensors.report
            outputs.1 = tensors.modelInput
            return
        }
        outputs.0 = tensors.nextSample
        if pass == .step, row.pointee.storeCount < 2 { outputs.2 = tensors.report ?? tensors.modelInput }
        guard let slots else { return }
        let kept = keepsModelOutput ? row.pointee.keptOutput : -1
        if row.pointee.storeCount > 0, kept != 0 { outputs.1 = slots[Int(row.pointee.stores[0])] + slotOffset }
        if row.pointee.storeCount > 1, kept != 1 { outputs.2 = slots[Int(row.pointee.stores[1])] + slotOffset }
    }
}

/// The outputs of a pass over the tensors.
enum StepPass {
    /// The next sample, the stores, and in the last free output the report or the next model input.
    case step
    /// The next sample and the stores.
    case stepAlone
    /// The report and the next model input.
    case extras
}

/// An item of a step: a batch item of one session, or the row of one of many sessions.
struct StepItem {
    let row: UnsafePointer<KernelRow>
    /// The row whose outputs are written.
    let kernelRow: UnsafePointer<dsk_prepared_row>
    let slots: UnsafePointer<UnsafeMutableRawPointer>?
    /// The item's place in the slots, in bytes.
    var slotOffset = 0
    let guidance: Guidance?
    /// Scratch memory for finding a threshold, for rows that clamp by one.
    let thresholds: UnsafeMutableRawPointer?
}

extension StepItem {
    /// An item that takes the whole row.
    init(
        row: UnsafePointer<KernelRow>, slots: UnsafePointer<UnsafeMutableRawPointer>?, guidance: Guidance?,
        thresholds: UnsafeMutableRawPointer?
    ) {
        self.init(
            row: row, kernelRow: UnsafeRawPointer(row).assumingMemoryBound(to: dsk_prepared_row.self), slots: slots,
            guidance: guidance,
            thresholds: thresholds)
    }
}

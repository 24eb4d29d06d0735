internal import CKernels

/// The calls into the C core. Everything that imports CKernels is in this folder.
enum Kernels {
    /// Executes a row of a plan.
    static func step(
        _ row: UnsafePointer<dsk_row>, clamp: PredictionClamp, _ tensors: StepTensors, history: HistoryRing? = nil,
        batchSize: Int, maximumThreads: Int = 0
    ) {
        let threads = UInt32(clamping: maximumThreads)
        switch clamp {
        case .none where tensors.modelOutputParts == 1, .range where tensors.modelOutputParts == 1:
            var item = dsk_item()
            item.set(tensors, history, row: row, index: 0, count: 1)
            check(dsk_step(&item, 1, threads))
        default:
            withUnsafeTemporaryAllocation(of: dsk_item.self, capacity: min(batchSize, mostItemsOnStack)) { items in
                for first in stride(from: 0, to: batchSize, by: mostItemsOnStack) {
                    let count = min(batchSize - first, mostItemsOnStack)
                    for place in 0..<count {
                        items.initializeElement(at: place, to: dsk_item())
                        items[place].set(tensors, history, row: row, index: first + place, count: batchSize)
                    }
                    if case .dynamicThreshold(let ratio, let maximum) = clamp {
                        check(dsk_find_thresholds(items.baseAddress, count, ratio, maximum, threads))
                    }
                    check(dsk_step(items.baseAddress, count, threads))
                }
            }
        }
    }

    /// A temporary allocation of more than 1,024 bytes comes from the heap, and steps allocate nothing.
    private static var mostItemsOnStack: Int { 1024 / MemoryLayout<dsk_item>.stride }

    /// Executes a step of its own, without history.
    static func step(
        _ step: StepCoefficients, clamp: PredictionClamp, _ tensors: StepTensors, batchSize: Int, maximumThreads: Int = 0
    ) {
        withUnsafePointer(to: dsk_row(step, clamp: clamp)) { row in
            self.step(row, clamp: clamp, tensors, batchSize: batchSize, maximumThreads: maximumThreads)
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
        a.withUnsafeBytes { a in
            b.withUnsafeBytes { b in
                check(
                    dsk_find_moments(
                        Element.elementType.kernelType, a.baseAddress, b.baseAddress, batchSize,
                        a.count / MemoryLayout<Element>.stride / batchSize, &moments, 0))
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
        if let modelOutput { input_types.1 = modelOutput.kernelType }
    }

    /// Becomes batch item `index` of `count` equal ones. Not an initialiser, which would copy what it has just written.
    @inline(__always)
    fileprivate mutating func set(
        _ tensors: StepTensors, _ history: HistoryRing?, row: UnsafePointer<dsk_row>, index: Int, count: Int
    ) {
        let elements = count == 1 ? tensors.elementCount : tensors.elementCount / count
        let offset = index * elements * tensors.elementType.size
        self.row = row
        n_elements = elements
        setTypes(tensors.elementType, modelOutput: tensors.modelOutputType)
        inputs.0 = tensors.sample + offset
        inputs.1 = tensors.modelOutput + index * elements * tensors.modelOutputType.size * tensors.modelOutputParts
        inputs.3 = tensors.noise.map { $0 + offset }
        outputs.0 = tensors.nextSample + offset
        outputs.2 = tensors.prediction.map { $0 + offset }
        guard let history else { return }
        let slots = history.storage.slotCount
        // The oldest output, the one after the newest in the ring, makes room for this step's, which is written where it was read.
        var slot = history.newest + 1 == slots ? 0 : history.newest + 1
        outputs.1 = history.storage.slot(slot) + offset
        withUnsafeMutableBytes(of: &inputs) { bytes in
            let inputs = bytes.assumingMemoryBound(to: UnsafeRawPointer?.self)
            for age in (0..<slots).reversed() {
                inputs[Int(DSK_SLOT_1.rawValue) + age] = UnsafeRawPointer(history.storage.slot(slot) + offset)
                slot = slot + 1 == slots ? 0 : slot + 1
            }
        }
    }
}

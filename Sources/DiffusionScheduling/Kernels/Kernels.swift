internal import CKernels

/// The calls into the C core. Everything that imports CKernels is in this folder.
enum Kernels {
    /// Executes a row of a plan.
    static func step(
        _ row: UnsafePointer<dsk_row>, clamp: PredictionClamp, _ tensors: StepTensors, history: HistoryRing? = nil,
        batchSize: Int, maximumThreads: Int = 0
    ) {
        let type = tensors.elementType.kernelType
        let threads = UInt32(clamping: maximumThreads)
        switch clamp {
        case .none where tensors.modelOutputParts == 1, .range where tensors.modelOutputParts == 1:
            var item = dsk_item(tensors, history, row: row, index: 0, count: 1)
            check(dsk_step(type, &item, 1, threads))
        default:
            withUnsafeTemporaryAllocation(of: dsk_item.self, capacity: batchSize) { items in
                for index in 0..<batchSize {
                    items.initializeElement(at: index, to: dsk_item(tensors, history, row: row, index: index, count: batchSize))
                }
                if case .dynamicThreshold(let ratio, let maximum) = clamp {
                    check(dsk_find_thresholds(type, items.baseAddress, items.count, ratio, maximum, threads))
                }
                check(dsk_step(type, items.baseAddress, items.count, threads))
            }
        }
    }

    /// Executes a step of its own, without history.
    static func step(_ step: StepCoefficients, clamp: PredictionClamp, _ tensors: StepTensors, batchSize: Int) {
        withUnsafePointer(to: dsk_row(step, clamp: clamp)) { row in
            self.step(row, clamp: clamp, tensors, batchSize: batchSize)
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
            item.outputs.0 = UnsafeMutableRawPointer(out.baseAddress)
            func execute(_ rest: ArraySlice<(coefficient: Double, tensor: [Element])>) {
                guard let term = rest.first else {
                    withUnsafePointer(to: &row) { row in
                        item.row = row
                        check(dsk_step(Element.elementType.kernelType, &item, 1, 0))
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
        }
    }
}

extension dsk_item {
    /// Batch item `index` of `count` equal ones.
    fileprivate init(
        _ tensors: StepTensors, _ history: HistoryRing?, row: UnsafePointer<dsk_row>, index: Int, count: Int
    ) {
        self.init()
        let elements = tensors.elementCount / count
        let offset = index * elements * tensors.elementType.size
        self.row = row
        n_elements = elements
        inputs.0 = tensors.sample + offset
        inputs.1 = tensors.modelOutput + offset * tensors.modelOutputParts
        inputs.3 = tensors.noise.map { $0 + offset }
        outputs.0 = tensors.nextSample + offset
        outputs.2 = tensors.prediction.map { $0 + offset }
        guard let history else { return }
        let slots = history.storage.slotCount
        withUnsafeMutableBytes(of: &inputs) { bytes in
            let inputs = bytes.bindMemory(to: UnsafeRawPointer?.self)
            for age in 0..<slots {
                let slot = (history.newest - age + slots) % slots
                inputs[Int(DSK_SLOT_1.rawValue) + age] = UnsafeRawPointer(history.storage.slot(slot) + offset)
            }
        }
        // The oldest output makes room for this step's, which is written where it was read.
        outputs.1 = history.storage.slot((history.newest + 1) % slots) + offset
    }
}

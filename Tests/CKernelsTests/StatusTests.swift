// SPDX-License-Identifier: Apache-2.0

import CKernels
import Testing

/// Every reason to refuse a call. A refused call writes nothing.
extension KernelTests {
    @Suite struct StatusTests {
        static let statuses = [
            DSK_OK, DSK_NULL_POINTER, DSK_UNKNOWN_TYPE, DSK_MISSING_INPUT, DSK_MISALIGNED, DSK_OVERLAP, DSK_TOO_LARGE,
            DSK_OUT_OF_RANGE,
        ]

        @Test func numbersAreForEver() {
            #expect(Self.statuses.map(\.rawValue) == Array(0...7))
            #expect([DSK_FLOAT32, DSK_FLOAT64, DSK_FLOAT16, DSK_BFLOAT16].map(\.rawValue) == [0, 1, 2, 3])
        }

        @Test func messages() {
            let unknown = dsk_status(rawValue: 1000)
            let messages = (Self.statuses + [unknown]).map { String(cString: dsk_status_message($0)) }
            #expect(messages.allSatisfy { $0.count > 5 })
            #expect(Set(messages).count == messages.count)
        }

        @Test func elementSizes() {
            #expect(dsk_element_size(DSK_FLOAT32) == 4)
            #expect(dsk_element_size(DSK_FLOAT64) == 8)
            #expect(dsk_element_size(DSK_FLOAT16) == 2)
            #expect(dsk_element_size(DSK_BFLOAT16) == 2)
            #expect(dsk_element_size(unknownType) == 0)
        }

        @Test func version() {
            #expect(dsk_version() == UInt32(DSK_VERSION_MAJOR * 10000 + DSK_VERSION_MINOR * 100 + DSK_VERSION_PATCH))
        }

        private let unknownType = dsk_element_type(rawValue: 4)

        // MARK: dsk_step

        /// A good item, then one that `change` makes bad: it must be refused before the good one is computed.
        private func expectStep(
            _ expected: dsk_status, type: dsk_element_type = DSK_FLOAT32, row badRow: Row? = nil, threshold: Double = 1,
            sourceLocation: SourceLocation = #_sourceLocation, change: (inout dsk_item) -> Void = { _ in }
        ) {
            var row = Row()
            row.prediction = [1, 1, 0, 0]
            row.outputs[0] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
            row.outputs[1][1] = 1
            let count = 100
            let inputs = (0..<2).map { Tensor(Array(repeating: Float($0), count: count)) }
            let outputs = (0..<4).map { _ in Tensor<Float>(count: count) }
            let call = Call<Float>()
            let itemCount = type == DSK_FLOAT64 ? count / 2 : count  // the most that fit the memory
            call.add(row, inputs: inputs, outputs: Array(outputs[0..<2]), count: itemCount)
            call.add(badRow ?? row, inputs: inputs, outputs: Array(outputs[2..<4]), count: itemCount, threshold: threshold)
            for i in 0...1 { call.change(i) { $0.setTypes(type) } }
            call.change(1, change)
            for threads: UInt32 in [0, 1] {
                let status = withLimits(parallelElements: 0) { dsk_step(call.items, call.items.count, threads) }
                #expect(status == expected, sourceLocation: sourceLocation)
            }
            guard expected != DSK_OK else { return }
            for output in outputs { #expect(output.problem(expecting: []) == nil, sourceLocation: sourceLocation) }
            for (i, input) in inputs.enumerated() {
                #expect(
                    input.problem(expecting: Array(repeating: Float(i), count: count)) == nil, sourceLocation: sourceLocation)
            }
        }

        @Test func stepAccepts() {
            expectStep(DSK_OK)
        }

        @Test func stepNullPointer() {
            expectStep(DSK_NULL_POINTER) { $0.row = nil }
            #expect(dsk_step(nil, 1, 0) == DSK_NULL_POINTER)
        }

        @Test func stepUnknownType() {
            expectStep(DSK_UNKNOWN_TYPE, type: unknownType)
            expectStep(DSK_UNKNOWN_TYPE, type: dsk_element_type(rawValue: .max))
            expectStep(DSK_UNKNOWN_TYPE) { $0.input_types.1 = unknownType }
            expectStep(DSK_UNKNOWN_TYPE) { $0.output_types.1 = unknownType }
            // Types of tensors that aren't read or written are ignored.
            expectStep(DSK_OK) {
                $0.input_types.2 = unknownType
                $0.output_types.2 = unknownType
            }
        }

        @Test func stepMissingInput() {
            expectStep(DSK_MISSING_INPUT) { $0.inputs.0 = nil }
            expectStep(DSK_MISSING_INPUT) { $0.inputs.1 = nil }
            // p alone reads the input.
            expectStep(DSK_MISSING_INPUT) {
                $0.inputs.1 = nil
                $0.outputs.1 = nil
            }
            // No wanted output reads the missing input.
            expectStep(DSK_OK) {
                $0.inputs.1 = nil
                $0.outputs = (nil, nil, nil)
            }
            // Every input can be missing.
            for input in 0..<Row.inputCount {
                var row = Row()
                row.outputs[1][input] = 1
                expectStep(DSK_MISSING_INPUT, row: row) { item in
                    withUnsafeMutableBytes(of: &item.inputs) { $0.bindMemory(to: UnsafeRawPointer?.self)[input] = nil }
                }
            }
        }

        @Test func stepMisaligned() {
            for bytes in 1...3 {
                expectStep(DSK_MISALIGNED) { $0.inputs.0 = $0.inputs.0! + bytes }
                expectStep(DSK_MISALIGNED) { $0.outputs.1 = $0.outputs.1! + bytes }
            }
            expectStep(DSK_MISALIGNED) {
                $0.input_types.0 = DSK_BFLOAT16
                $0.inputs.0 = $0.inputs.0! + 1
            }
            // These addresses are aligned for float32 but not for float64.
            expectStep(DSK_MISALIGNED, type: DSK_FLOAT64) { $0.inputs.1 = $0.inputs.1! + 4 }
            expectStep(DSK_MISALIGNED, type: DSK_FLOAT64) { $0.outputs.0 = $0.outputs.0! + 4 }
        }

        @Test func stepOverlap() {
            // Partial overlaps with an input, from either side, by one element.
            for shift in [4, -4, 99 * 4, -99 * 4] {
                expectStep(DSK_OVERLAP) { $0.outputs.0 = UnsafeMutableRawPointer(mutating: $0.inputs.0! + shift) }
                expectStep(DSK_OVERLAP) { $0.outputs.1 = UnsafeMutableRawPointer(mutating: $0.inputs.1! + shift) }
            }
            // Overlaps with another output, in part and entirely, also with an output in place.
            expectStep(DSK_OVERLAP) { $0.outputs.1 = $0.outputs.0 }
            expectStep(DSK_OVERLAP) { $0.outputs.1 = $0.outputs.0! + 396 }
            expectStep(DSK_OVERLAP) { $0.outputs.2 = $0.outputs.1! - 396 }
            expectStep(DSK_OVERLAP) {
                $0.outputs.0 = UnsafeMutableRawPointer(mutating: $0.inputs.0!)
                $0.outputs.2 = $0.outputs.0
            }
        }

        /// Only tensors of one element size may share memory in place; ranges are compared in bytes.
        @Test func overlapOfTypes() {
            let sizes = [(DSK_FLOAT32, DSK_FLOAT16), (DSK_FLOAT16, DSK_FLOAT32)]
            for (input, output) in sizes {
                expectStep(DSK_OVERLAP) {
                    $0.n_elements = 50
                    $0.input_types.0 = input
                    $0.output_types.0 = output
                    $0.outputs.0 = UnsafeMutableRawPointer(mutating: $0.inputs.0!)
                }
            }
            // One tensor's end in the other's beginning, then one element further.
            for (distance, status) in [(98, DSK_OVERLAP), (100, DSK_OK)] {
                var item = dsk_item(), row = Row()
                row.outputs[0][0] = 1
                let memory = Tensor<Float>(count: 200)
                item.n_elements = 50
                item.input_types.0 = DSK_FLOAT16
                item.inputs.0 = UnsafeRawPointer(memory.pointer)
                item.output_types.0 = DSK_BFLOAT16
                item.outputs.0 = UnsafeMutableRawPointer(memory.pointer) + distance
                withUnsafePointer(to: row.prepared) {
                    item.row = $0
                    #expect(dsk_step(&item, 1, 1) == status)
                }
            }
        }

        /// Tensors that touch don't overlap.
        @Test func neighboursDoNotOverlap() throws {
            var row = Row()
            row.outputs[0][0] = 2
            row.outputs[1][0] = 3
            let tensor = Tensor<Float>([7, 7, 1, 2, 7, 7])
            let call = Call<Float>()
            let start = UnsafeMutableRawPointer(tensor.pointer)
            call.add(row, inputPointers: [start + 8], outputPointers: [start, start + 16], count: 2)
            try require(call.step(), "neighbours")
            try require(noProblem: tensor.problem(expecting: [2, 4, 1, 2, 3, 6]), "neighbours")
        }

        @Test func stepTooLarge() {
            expectStep(DSK_TOO_LARGE) { $0.n_elements = .max }
            expectStep(DSK_TOO_LARGE) { $0.n_elements = Int(bitPattern: UInt.max / 4 + 1) }
            expectStep(DSK_TOO_LARGE, type: DSK_FLOAT64) { $0.n_elements = Int(bitPattern: UInt.max / 8 + 1) }
            // Each item fits, both together don't; without outputs nothing else is wrong with the second.
            expectStep(DSK_TOO_LARGE) {
                $0.n_elements = Int(bitPattern: UInt.max / 4 - 99)
                $0.outputs = (nil, nil, nil)
            }
            expectStep(DSK_TOO_LARGE, type: DSK_FLOAT64) {
                $0.n_elements = Int(bitPattern: UInt.max / 8 - 49)
                $0.outputs = (nil, nil, nil)
            }
        }

        @Test func stepOutOfRange() {
            func row(_ clamp: dsk_clamp) -> Row {
                var row = Row()
                row.prediction[0] = 1
                row.outputs[0][Row.predictionTerm] = 1
                row.clamp = clamp
                return row
            }
            for threshold: Double in [0, -0.0, -1, -.infinity] {
                expectStep(DSK_OUT_OF_RANGE, row: row(DSK_CLAMP_THRESHOLD), threshold: threshold)
                expectStep(DSK_OK, row: row(DSK_CLAMP_RANGE), threshold: threshold)
            }
            expectStep(DSK_OK, row: row(DSK_CLAMP_THRESHOLD), threshold: .nan)
        }

        // MARK: dsk_prepare_row

        private func expectPrepare(
            _ expected: dsk_status, sourceLocation: SourceLocation = #_sourceLocation, change: (inout dsk_row) -> Void
        ) {
            var row = Row().cValue, prepared = dsk_prepared_row()
            change(&row)
            prepared.prediction_reads = 0xABCD
            #expect(dsk_prepare_row(&row, &prepared) == expected, sourceLocation: sourceLocation)
            // On error nothing is written.
            #expect((prepared.prediction_reads == 0xABCD) == (expected != DSK_OK), sourceLocation: sourceLocation)
        }

        @Test func prepareStatuses() {
            var row = Row().cValue, prepared = dsk_prepared_row()
            #expect(dsk_prepare_row(nil, &prepared) == DSK_NULL_POINTER)
            #expect(dsk_prepare_row(&row, nil) == DSK_NULL_POINTER)
            expectPrepare(DSK_OK) { _ in }
            expectPrepare(DSK_OUT_OF_RANGE) { $0.clamp = dsk_clamp(rawValue: 3) }
            for range: Double in [0, -0.0, -1, -.infinity, .nan] {
                for (clamp, status) in [
                    (DSK_CLAMP_RANGE, DSK_OUT_OF_RANGE), (DSK_CLAMP_NONE, DSK_OK), (DSK_CLAMP_THRESHOLD, DSK_OK),
                ] {
                    expectPrepare(status) {
                        $0.clamp = clamp
                        $0.clamp_range = range
                    }
                }
            }
            for (ratio, maximum): (Double, Double) in [
                (-0.001, 2), (1.001, 2), (.infinity, 2), (-.infinity, 2), (.nan, 2), (0.5, 0), (0.5, -0.0), (0.5, -1),
                (0.5, -.infinity), (0.5, .nan),
            ] {
                for (clamp, status) in [(DSK_CLAMP_THRESHOLD, DSK_OUT_OF_RANGE), (DSK_CLAMP_NONE, DSK_OK)] {
                    expectPrepare(status) {
                        $0.clamp = clamp
                        $0.threshold_ratio = ratio
                        $0.threshold_maximum = maximum
                    }
                }
            }
            expectPrepare(DSK_OUT_OF_RANGE) { $0.noise_factor = dsk_noise_factor(rawValue: 3) }
            for (offset, slope, read, status) in [
                (.nan, 0, 0, DSK_OUT_OF_RANGE), (.infinity, 0, 0, DSK_OUT_OF_RANGE), (0, .nan, 0, DSK_OUT_OF_RANGE),
                (0, -.infinity, 0, DSK_OUT_OF_RANGE), (0, 0, 0.5, DSK_OUT_OF_RANGE), (1, 1, 0, DSK_OK),
            ] as [(Double, Double, Double, dsk_status)] {
                for factor in [DSK_NOISE_FACTOR_NONE, DSK_NOISE_FACTOR_ROOT, DSK_NOISE_FACTOR_EXPONENTIAL] {
                    let isRefused =
                        factor == DSK_NOISE_FACTOR_EXPONENTIAL || (factor == DSK_NOISE_FACTOR_ROOT && read != 0)
                    expectPrepare(isRefused ? status : DSK_OK) {
                        $0.noise_factor = factor
                        $0.noise_offset = offset
                        $0.noise_slope = slope
                        $0.prediction.3 = read
                    }
                }
            }
        }

        // MARK: dsk_find_thresholds

        private func expectThresholds(
            _ expected: dsk_status, type: dsk_element_type = DSK_FLOAT32, ratio: Double = 0.5, maxValue: Double = 2,
            clamp: dsk_clamp = DSK_CLAMP_THRESHOLD, sourceLocation: SourceLocation = #_sourceLocation,
            change: (inout dsk_item) -> Void = { _ in }
        ) {
            var row = Row()
            row.prediction = [0, 1, 0, 0]
            row.clamp = clamp
            row.thresholdRatio = ratio
            row.thresholdMaximum = maxValue
            let e = Tensor([Float](repeating: 3, count: 100)), workspaces = Workspaces()
            let call = Call<Float>()
            for _ in 0..<2 { call.add(row, inputs: [nil, e], outputs: [], count: 50, threshold: -7) }
            for i in 0...1 {
                call.change(i) {
                    $0.setTypes(type)
                    $0.workspace = workspaces.room(for: 50, item: i)
                }
            }
            call.change(1, change)
            var items = call.items
            let status = withExtendedLifetime((call, workspaces)) { dsk_find_thresholds(&items, 2, 0) }
            #expect(status == expected, sourceLocation: sourceLocation)
            if expected != DSK_OK { #expect(items.map(\.threshold) == [-7, -7], sourceLocation: sourceLocation) }
        }

        @Test func thresholdStatuses() {
            expectThresholds(DSK_OK)
            expectThresholds(DSK_NULL_POINTER) { $0.row = nil }
            #expect(dsk_find_thresholds(nil, 1, 0) == DSK_NULL_POINTER)
            expectThresholds(DSK_NULL_POINTER) { $0.workspace = nil }
            expectThresholds(DSK_MISALIGNED) { $0.workspace = $0.workspace! + 4 }
            expectThresholds(DSK_OK) {
                $0.n_elements = 0
                $0.workspace = nil
            }
            expectThresholds(DSK_UNKNOWN_TYPE, type: unknownType)
            expectThresholds(DSK_MISSING_INPUT) { $0.inputs.1 = nil }
            expectThresholds(DSK_MISALIGNED) { $0.inputs.1 = $0.inputs.1! + 2 }
            expectThresholds(DSK_TOO_LARGE) { $0.n_elements = .max }
            expectThresholds(DSK_TOO_LARGE) { $0.n_elements = Int(bitPattern: UInt.max / 4 - 49) }
            expectThresholds(DSK_OK, ratio: 0, maxValue: .infinity)
            expectThresholds(DSK_OK, ratio: 1, maxValue: .leastNonzeroMagnitude)
            #expect(dsk_find_thresholds(nil, 0, 0) == DSK_OK)
        }

        // MARK: dsk_add_noise and dsk_scale

        @Test func addNoiseStatuses() {
            let count = 100
            let x = Tensor([Float](repeating: 1, count: count)), z = Tensor([Float](repeating: 2, count: count))
            let out = Tensor<Float>(count: count)
            let rates = [0.5, 0.25]
            func expect(
                _ expected: dsk_status, type: dsk_element_type = DSK_FLOAT32, sample: UnsafeRawPointer?,
                noise: UnsafeRawPointer?, signalRates: [Double]? = rates, noiseRates: [Double]? = rates, items: Int = 2,
                perItem: Int = 50, out destination: UnsafeMutableRawPointer?, sourceLocation: SourceLocation = #_sourceLocation
            ) {
                func call(_ signalRates: UnsafePointer<Double>?, _ noiseRates: UnsafePointer<Double>?) -> dsk_status {
                    dsk_add_noise(type, sample, noise, signalRates, noiseRates, items, perItem, destination, 0)
                }
                let status =
                    switch (signalRates, noiseRates) {
                    case (let signal?, let noise?): call(signal, noise)
                    case (let signal?, nil): call(signal, nil)
                    case (nil, let noise?): call(nil, noise)
                    case (nil, nil): call(nil, nil)
                    }
                #expect(status == expected, sourceLocation: sourceLocation)
                #expect(out.problem(expecting: []) == nil, sourceLocation: sourceLocation)
                #expect(x.problem(expecting: [Float](repeating: 1, count: count)) == nil, sourceLocation: sourceLocation)
                #expect(z.problem(expecting: [Float](repeating: 2, count: count)) == nil, sourceLocation: sourceLocation)
            }
            let xs = UnsafeMutableRawPointer(x.pointer), zs = UnsafeMutableRawPointer(z.pointer)
            let o = UnsafeMutableRawPointer(out.pointer)
            expect(DSK_NULL_POINTER, sample: nil, noise: zs, out: o)
            expect(DSK_NULL_POINTER, sample: xs, noise: nil, out: o)
            expect(DSK_NULL_POINTER, sample: xs, noise: zs, signalRates: nil, out: o)
            expect(DSK_NULL_POINTER, sample: xs, noise: zs, noiseRates: nil, out: o)
            expect(DSK_NULL_POINTER, sample: xs, noise: zs, out: nil)
            expect(DSK_UNKNOWN_TYPE, type: unknownType, sample: xs, noise: zs, out: o)
            expect(DSK_MISALIGNED, sample: xs + 2, noise: zs, perItem: 49, out: o)
            expect(DSK_MISALIGNED, sample: xs, noise: zs + 1, perItem: 49, out: o)
            expect(DSK_MISALIGNED, sample: xs, noise: zs, perItem: 49, out: o + 3)
            expect(DSK_OVERLAP, sample: xs, noise: zs, perItem: 49, out: xs + 4)
            expect(DSK_OVERLAP, sample: xs + 4, noise: zs, perItem: 49, out: xs)
            expect(DSK_OVERLAP, sample: xs, noise: zs, perItem: 25, out: zs + 49 * 4)  // elements of the other item only
            expect(DSK_TOO_LARGE, sample: xs, noise: zs, perItem: .max, out: o)
            expect(DSK_TOO_LARGE, sample: xs, noise: zs, perItem: Int(bitPattern: UInt.max / 8 + 1), out: o)
            expect(DSK_OK, sample: nil, noise: nil, signalRates: nil, noiseRates: nil, items: 0, out: nil)
        }

        /// Items are computed in blocks, but every item is checked before the first write: here only the last item reads the
        /// misaligned tensor.
        @Test func addNoiseChecksAllItemsFirst() {
            let itemCount = 40
            let x = Tensor([Float](repeating: 1, count: itemCount + 1)), out = Tensor<Float>(count: itemCount)
            let some = [Double](repeating: 0.5, count: itemCount)
            let last = [Double](repeating: 0, count: itemCount - 1) + [0.5]
            let misaligned = UnsafeRawPointer(x.pointer) + 2
            #expect(dsk_add_noise(DSK_FLOAT32, misaligned, x.pointer, last, some, itemCount, 1, out.pointer, 0) == DSK_MISALIGNED)
            #expect(out.problem(expecting: []) == nil)
            #expect(dsk_add_noise(DSK_FLOAT32, x.pointer, misaligned, some, last, itemCount, 1, out.pointer, 0) == DSK_MISALIGNED)
            #expect(out.problem(expecting: []) == nil)
        }

        @Test func scaleStatuses() {
            let x = Tensor<Float>([1, 2, 3, 4]), out = Tensor<Float>(count: 4)
            let (xs, o) = (UnsafeMutableRawPointer(x.pointer), UnsafeMutableRawPointer(out.pointer))
            #expect(dsk_scale(DSK_FLOAT32, nil, 2, 4, o, 0) == DSK_NULL_POINTER)
            #expect(dsk_scale(DSK_FLOAT32, xs, 2, 4, nil, 0) == DSK_NULL_POINTER)
            #expect(dsk_scale(unknownType, xs, 2, 4, o, 0) == DSK_UNKNOWN_TYPE)
            #expect(dsk_scale(DSK_FLOAT32, xs + 1, 2, 3, o, 0) == DSK_MISALIGNED)
            #expect(dsk_scale(DSK_FLOAT32, xs, 2, 3, o + 2, 0) == DSK_MISALIGNED)
            #expect(dsk_scale(DSK_FLOAT32, xs, 2, 3, xs + 4, 0) == DSK_OVERLAP)
            #expect(dsk_scale(DSK_FLOAT32, xs, 2, .max, o, 0) == DSK_TOO_LARGE)
            #expect(out.problem(expecting: []) == nil)
            #expect(x.problem(expecting: [1, 2, 3, 4]) == nil)
        }
    }
}

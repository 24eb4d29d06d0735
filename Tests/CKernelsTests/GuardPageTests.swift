// SPDX-License-Identifier: Apache-2.0

import CKernels
import Foundation
import Testing

// Exit tests start a process each, which only these systems allow.
#if os(macOS) || os(Linux)

    /// No call writes outside the outputs or reads outside the inputs: every tensor touches, at its end or at its start, a page
    /// that may be neither read nor written. A violation kills the process that runs the case.
    extension KernelTests {
        @Suite struct GuardPageTests {
            enum Function: String, CaseIterable, Codable { case step, stepInPlace, findThresholds, addNoise, scale }
            enum Guarded: String, CaseIterable, Codable { case start, end }

            @Test(arguments: Function.allCases, Guarded.allCases)
            func staysInside(function: Function, guarded: Guarded) async {
                await #expect(processExitsWith: .success) { [function, guarded] in
                    try Self.run(function, guarded, Float.self)
                    try Self.run(function, guarded, Double.self)
                    try Self.run(function, guarded, Float16.self)
                    try Self.run(function, guarded, Brain.self)
                }
            }

            /// Tests the guard itself: an access to the forbidden page must kill the process.
            @Test(arguments: Guarded.allCases)
            func reachingOutKills(guarded: Guarded) async {
                await #expect(processExitsWith: .failure) { [guarded] in
                    let tensor = GuardedTensor<Float>(count: 3, guarded: guarded)
                    let outside = guarded == .end ? tensor.pointer + 3 : tensor.pointer - 1
                    let out = GuardedTensor<Float>(count: 3, guarded: guarded)
                    _ = dsk_scale(DSK_FLOAT32, outside, 2, 1, out.pointer, 1)
                }
            }

            private static func run<T: Element>(_ function: Function, _ guarded: Guarded, _: T.Type) throws {
                var random = Random("\(function) \(guarded) \(T.kind)")
                let largest = 400
                var row = random.row(zeroPercent: 0)
                row.clamp = DSK_CLAMP_THRESHOLD
                let inputs = (0..<Row.inputCount).map { _ in GuardedTensor<T>(count: largest, guarded: guarded) }
                let outputs = (0..<Row.outputCount).map { _ in GuardedTensor<T>(count: largest, guarded: guarded) }
                let values: [T] = random.values(largest)

                // Every size up to two AVX-512 tiles of float32 and seven elements more, then some for several threads.
                for count in Array(0...135) + [199, 256, 300, largest] {
                    inputs.forEach { $0.set(values, count: count) }
                    let targets = function == .stepInPlace ? Array(inputs[1...3]) : outputs
                    let call = Call<T>()
                    call.add(
                        row, inputPointers: inputs.map { UnsafeRawPointer($0.start(count)) },
                        outputPointers: targets.map { UnsafeMutableRawPointer($0.start(count)) }, count: count, threshold: 0.7)
                    let settings = [(UInt32(1), Int.max), (1, 0), (3, 0)].filter { threads, _ in threads == 1 || count > 135 }
                    try forEachISA(and: settings) { isa, setting in
                        let (threads, streamingBytes) = setting
                        let status = withLimits(parallelElements: 136, streamingBytes: streamingBytes) {
                            switch function {
                            case .step, .stepInPlace: call.step(threads: threads)
                            case .findThresholds: call.findThresholds(ratio: 0.9, maxValue: 99, threads: threads)
                            case .addNoise:
                                dsk_add_noise(
                                    T.kind.cType, inputs[0].start(count), inputs[1].start(count), [0.6], [0.8], 1, count,
                                    outputs[0].start(count), threads)
                            case .scale:
                                dsk_scale(T.kind.cType, inputs[0].start(count), 3, count, outputs[0].start(count), threads)
                            }
                        }
                        try require(status, "\(function), \(count) elements, ISA \(isa.rawValue)")
                    }
                }
            }
        }
    }

    /// Memory between two forbidden pages; tensors lie at one of its ends.
    private final class GuardedTensor<T: Element> {
        private let count: Int
        private let guarded: KernelTests.GuardPageTests.Guarded
        private let mapping: UnsafeMutableRawPointer
        private let mappedBytes: Int
        private let first: UnsafeMutablePointer<T>
        private let end: UnsafeMutablePointer<T>

        init(count: Int, guarded: KernelTests.GuardPageTests.Guarded) {
            self.count = count
            self.guarded = guarded
            let page = Int(sysconf(Int32(_SC_PAGESIZE)))
            let usable = (max(count * MemoryLayout<T>.stride, 1) + page - 1) / page * page
            mappedBytes = usable + 2 * page
            mapping = mmap(nil, mappedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0)
            precondition(mapping != MAP_FAILED)
            precondition(mprotect(mapping, page, PROT_NONE) == 0)
            precondition(mprotect(mapping + page + usable, page, PROT_NONE) == 0)
            first = (mapping + page).bindMemory(to: T.self, capacity: usable / MemoryLayout<T>.stride)
            end = first + usable / MemoryLayout<T>.stride
        }

        deinit { munmap(mapping, mappedBytes) }

        var pointer: UnsafeMutablePointer<T> { start(count) }

        /// The start of a tensor of `count` elements that touches the forbidden page.
        func start(_ count: Int) -> UnsafeMutablePointer<T> { guarded == .start ? first : end - count }

        func set(_ values: [T], count: Int) { memcpy(start(count), values, count * MemoryLayout<T>.stride) }
    }

#endif

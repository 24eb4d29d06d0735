// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
internal import CKernels
import DiffusionScheduling

/// Calls into the C core other than steps. Tensors have been checked before, so an error status here is this library's fault.
enum Arithmetic {
    static var runtimeDescription: UnsafePointer<CChar> { dsk_runtime_description() }

    /// out = sampleRates[i] · sample + noiseRates[i] · noise for part i; the tensors are cut into equal parts, one for each rate.
    static func combine(
        _ sample: Tensor, _ sampleRates: [Double], _ noise: Tensor, _ noiseRates: [Double], into out: Tensor, maximumThreads: UInt32
    ) throws {
        try check(
            dsk_add_noise(
                sample.kernelType, sample.address, noise.address, sampleRates, noiseRates, sampleRates.count,
                sample.elementCount / sampleRates.count, out.address, maximumThreads))
    }

    /// out = factor · tensor
    static func scale(_ tensor: Tensor, by factor: Double, into out: Tensor, maximumThreads: UInt32) throws {
        if factor == 1, tensor.address == out.address { return }
        try check(dsk_scale(tensor.kernelType, tensor.address, factor, tensor.elementCount, out.address, maximumThreads))
    }

    /// The variances of every batch item of two tensors.
    static func variances(_ a: Tensor, _ b: Tensor, maximumThreads: UInt32) throws -> [(a: Double, b: Double)] {
        var moments = [dsk_moments](repeating: dsk_moments(), count: a.batchSize)
        let elements = a.elementCount / moments.count
        func items(_ tensor: Tensor) -> [UnsafeRawPointer?] {
            moments.indices.map { UnsafeRawPointer(tensor.address + $0 * elements * tensor.elementType.size) }
        }
        try check(dsk_find_moments(a.kernelType, items(a), items(b), moments.count, elements, &moments, maximumThreads))
        return moments.map { ($0.variance_a, $0.variance_b) }
    }

    private static func check(_ status: dsk_status) throws {
        guard status == DSK_OK else {
            throw SchedulerError.kernelFailure(reason: String(cString: dsk_status_message(status)))
        }
    }
}

extension Tensor {
    // Both headers number the element types alike.
    fileprivate var kernelType: dsk_element_type { dsk_element_type(rawValue: elementType.savedNumber) }
}

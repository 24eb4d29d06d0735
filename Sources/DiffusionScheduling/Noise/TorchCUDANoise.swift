// SPDX-License-Identifier: Apache-2.0

/// The numbers of `torch.randn` on CUDA.
///
/// `TorchCUDANoise(seed: s)` stands for `torch.Generator("cuda").manual_seed(s)`, and each fill for one
/// `torch.randn(count, generator: …, device: "cuda")`, whatever the tensor's shape. A float16 or bfloat16 tensor has the same
/// numbers, rounded.
///
/// The generator is Philox 4x32-10 (Salmon, Moraes, Dror & Shaw 2011, doi:10.1145/2063384.2063405). With T threads in the launch,
/// thread t makes the elements t, t + T, t + 2T and t + 3T from the words of Philox((offset/4, t), seed). cuRAND's form of Box and
/// Muller's transform makes two numbers from two words x and y:
///
///     u = 2⁻³² x + 2⁻³³,  v = 2π (2⁻³² y + 2⁻³³),  r = √(−2 ln u),  the numbers r sin v and r cos v
///
/// Further elements come from the next counters. Each fill moves ``offset`` by 4 for each started group of 4T elements.
///
/// **Device.** T = 256 · min(⌈count/256⌉, ``CUDADevice/maximumBlocks``). All devices with at least `count` threads give the
/// same numbers (an RTX 4090 has 196,608, an A100 221,184); larger tensors differ between devices in torch, and need the
/// matching `device` here.
///
/// **Accuracy.** The words are exact: they are checked against the vectors published with the paper and against torch's own Philox
/// on the CPU. The numbers are within 0.501 units in the last place of the formula, u and v being rounded to float32; that is
/// checked in float64. A device takes sine and cosine from its table units, which have an absolute error. Expect its numbers within
/// 2⁻²⁰ r ≤ 6.5e-6 of these: many units in the last place if sine or cosine is small. No device was available: the bound holds
/// for the 237 published numbers that were found (`Tests/Goldens/noise.json` names the sources; A100, H100, RTX A4000
/// and RTX A6000 among the devices, tensors of one launch wave and of several, second and third calls). Those printed with all
/// digits deviate by up to 0.57 of the bound.
///
/// - Complexity: O(count); 3 to 10 ms for a million numbers on one thread, shared among threads.
public struct TorchCUDANoise: NormalSource, Equatable {
    /// The seed, as `torch.cuda.manual_seed` takes it.
    public let seed: UInt64
    /// The distance that the counters have moved, as in `Generator.get_offset()`. A multiple of 4.
    public private(set) var offset: UInt64
    /// The device whose tensors the numbers are those of.
    public let device: CUDADevice

    /// The source that `torch.cuda.manual_seed(seed)` makes.
    ///
    /// - Parameters:
    ///   - seed: the seed.
    ///   - offset: a multiple of 4, to continue from a generator's place.
    ///   - device: only matters for tensors of more than about 100,000 elements.
    /// - Precondition: `offset` is a multiple of 4.
    public init(seed: UInt64, offset: UInt64 = 0, device: CUDADevice = .a100) {
        precondition(offset % 4 == 0, "offset is \(offset), but must be a multiple of 4")
        self.seed = seed
        self.offset = offset
        self.device = device
    }

    /// Overwrites `values` with the next numbers of ``TorchCUDANoise``.
    ///
    /// - Precondition: at most 2²⁹ elements: torch cuts larger tensors into several launches.
    public mutating func fill(_ values: inout MutableSpan<Float>) { fill(&values, maximumThreads: 0) }

    /// Overwrites `values` with the next numbers of ``TorchCUDANoise``.
    ///
    /// - Parameters:
    ///   - values: the memory to fill.
    ///   - maximumThreads: 0: as many as the OpenMP runtime would use; 1: stay on the caller's thread. The numbers don't depend on it.
    /// - Precondition: at most 2²⁹ elements: torch cuts larger tensors into several launches.
    public mutating func fill(_ values: inout MutableSpan<Float>, maximumThreads: Int) {
        precondition(
            values.count <= Kernels.maximumCUDANoiseCount,
            "values has \(values.count) elements, but must have at most \(Kernels.maximumCUDANoiseCount)")
        offset = Kernels.fillAsTorchCUDA(
            &values, seed: seed, offset: offset, maximumBlocks: device.maximumBlocks, maximumThreads: maximumThreads)
    }
}

extension TorchCUDANoise: Codable {
    /// Reads a source from a decoder.
    ///
    /// - Throws: the decoder's errors; `DecodingError` for an offset that isn't a multiple of 4.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        let offset = try container.decode(UInt64.self, forKey: .offset)
        guard offset % 4 == 0 else {
            throw DecodingError.dataCorruptedError(forKey: .offset, in: container, debugDescription: "not a multiple of 4")
        }
        try self.init(
            seed: container.decode(UInt64.self, forKey: .seed), offset: offset,
            device: container.decode(CUDADevice.self, forKey: .device))
    }
}

/// The two properties of a CUDA device that torch's random numbers depend on.
///
/// torch reports them: `p = torch.cuda.get_device_properties(0)`, `p.multi_processor_count`, `p.max_threads_per_multi_processor`.
public struct CUDADevice: Sendable, Equatable {
    /// The number of multiprocessors.
    public let multiprocessorCount: Int
    /// The most threads that a multiprocessor holds.
    public let threadsPerMultiprocessor: Int

    /// A device with these properties.
    ///
    /// - Precondition: `multiprocessorCount` ≥ 1 and `threadsPerMultiprocessor` ≥ 256, both at most 65,535.
    public init(multiprocessorCount: Int, threadsPerMultiprocessor: Int) {
        precondition(
            Self.isPossible(multiprocessorCount, threadsPerMultiprocessor),
            "no device has \(multiprocessorCount) multiprocessors of \(threadsPerMultiprocessor) threads")
        self.multiprocessorCount = multiprocessorCount
        self.threadsPerMultiprocessor = threadsPerMultiprocessor
    }

    /// The most blocks of 256 threads that torch launches.
    public var maximumBlocks: Int { multiprocessorCount * (threadsPerMultiprocessor / 256) }

    /// The A100.
    public static let a100 = CUDADevice(multiprocessorCount: 108, threadsPerMultiprocessor: 2048)
    /// The SXM model; the PCIe one has 114 multiprocessors.
    public static let h100 = CUDADevice(multiprocessorCount: 132, threadsPerMultiprocessor: 2048)
    /// The GeForce RTX 4090.
    public static let rtx4090 = CUDADevice(multiprocessorCount: 128, threadsPerMultiprocessor: 1536)

    private static func isPossible(_ multiprocessorCount: Int, _ threadsPerMultiprocessor: Int) -> Bool {
        (1...65_535).contains(multiprocessorCount) && (256...65_535).contains(threadsPerMultiprocessor)
    }
}

extension CUDADevice: Codable {
    /// Reads a device from a decoder.
    ///
    /// - Throws: the decoder's errors; `DecodingError` for numbers that no device has.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        let multiprocessorCount = try container.decode(Int.self, forKey: .multiprocessorCount)
        let threadsPerMultiprocessor = try container.decode(Int.self, forKey: .threadsPerMultiprocessor)
        guard Self.isPossible(multiprocessorCount, threadsPerMultiprocessor) else {
            throw DecodingError.dataCorruptedError(
                forKey: .multiprocessorCount, in: container,
                debugDescription: "no device has \(multiprocessorCount) multiprocessors of \(threadsPerMultiprocessor) threads")
        }
        self.init(multiprocessorCount: multiprocessorCount, threadsPerMultiprocessor: threadsPerMultiprocessor)
    }
}

// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import DiffusionScheduling

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

struct Noise: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Writes the numbers of a seed as a .npy file.",
        discussion: """
            Standard normal float32 numbers: those of torch.randn on a CPU or a CUDA device, or of numpy.random.RandomState.

            EXAMPLES:
              diffusion-scheduling noise --seed 42 --shape 1 4 64 64 --output noise.npy
              diffusion-scheduling noise --source numpy --shape 16 > noise.npy
            """)

    enum Source: String, CaseIterable, ExpressibleByArgument {
        case torchCPU = "torch"
        case torchCUDA = "torch-cuda"
        case numpy
    }

    @Option(help: "Whose numbers.")
    var source = Source.torchCPU

    @Option(help: "The seed.")
    var seed: UInt64 = 0

    @Option(parsing: .upToNextOption, help: "The tensor's sizes.")
    var shape: [Int]

    @Option(help: "Where to write them.", completion: .file(extensions: ["npy"]))
    var output: String?

    private var count: Int? {
        shape.reduce(1) { count, size in
            guard let count, size >= 0 else { return nil }
            let (product, overflow) = count.multipliedReportingOverflow(by: size)
            return overflow || product > 1 << 30 ? nil : product
        }
    }

    func validate() throws {
        guard count != nil else { throw ValidationError("--shape must have sizes of at least 0, and at most 2^30 elements.") }
        guard source != .numpy || seed <= UInt64(UInt32.max) else {
            throw ValidationError("--seed is \(seed), but must be at most \(UInt32.max) for numpy.")
        }
    }

    func run() throws {
        let values: [Float]
        switch source {
        case .torchCPU:
            var noise = TorchCPUNoise(seed: seed)
            values = noise.normals(count ?? 0)
        case .torchCUDA:
            var noise = TorchCUDANoise(seed: seed)
            values = noise.normals(count ?? 0)
        case .numpy:
            var noise = NumPyNoise(seed: UInt32(seed))
            values = noise.normals(count ?? 0)
        }
        let bytes = npy(values)
        if let output {
            try Data(bytes).write(to: URL(filePath: output))
        } else {
            try StandardStream.output.write(bytes)
        }
    }

    /// NumPy's format, version 1.0: a magic word, the length of a header, the header padded to 64 bytes, the elements.
    private func npy(_ values: [Float]) -> [UInt8] {
        let sizes = shape.map { "\($0)," }.joined(separator: " ")
        var header = "{'descr': '<f4', 'fortran_order': False, 'shape': (\(sizes)), }"
        header += String(repeating: " ", count: 63 - (10 + header.utf8.count) % 64) + "\n"
        var bytes = [0x93] + Array("NUMPY".utf8) + [1, 0, UInt8(header.utf8.count & 255), UInt8(header.utf8.count >> 8)]
        bytes += header.utf8
        for value in values { withUnsafeBytes(of: value.bitPattern.littleEndian) { bytes += $0 } }
        return bytes
    }
}

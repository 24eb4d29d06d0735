// SPDX-License-Identifier: Apache-2.0

import CDiffusionScheduling
import DiffusionScheduling

/// The object behind a noise source's handle: exactly one member is set.
struct NoiseHolder {
    var torchCPU: TorchCPUNoise?
    var torchCUDA: TorchCUDANoise?
    var numPy: NumPyNoise?
}

let noiseSources = HandleTable<NoiseHolder>(kind: "noise source", number: 3)

extension ds_noise {
    fileprivate var holder: UnsafeMutablePointer<NoiseHolder> {
        get throws { try noiseSources.value(of: handle) }
    }
}

@c(ds_noise_create) @implementation
public func ds_noise_create(_ kind: ds_noise_kind, _ seed: UInt64, _ noise: UnsafeMutablePointer<ds_noise>!) -> ds_status {
    status {
        let out = try require(noise, "noise")
        let holder: NoiseHolder
        switch kind {
        case DS_NOISE_TORCH_CPU: holder = NoiseHolder(torchCPU: TorchCPUNoise(seed: seed))
        case DS_NOISE_TORCH_CUDA: holder = NoiseHolder(torchCUDA: TorchCUDANoise(seed: seed))
        case DS_NOISE_NUMPY:
            guard let seed = UInt32(exactly: seed) else {
                throw SchedulerError.invalidValue(key: "seed", value: "\(seed)", allowed: "below 2^32 for NumPy's generator")
            }
            holder = NoiseHolder(numPy: NumPyNoise(seed: seed))
        default:
            throw SchedulerError.invalidValue(key: "kind", value: "\(kind.rawValue)", allowed: "one of ds_noise_kind")
        }
        out.pointee.handle = try noiseSources.insert(holder)
    }
}

@c(ds_noise_create_torch_cuda) @implementation
public func ds_noise_create_torch_cuda(
    _ seed: UInt64, _ offset: UInt64, _ n_multiprocessors: UInt32, _ n_threads_per_multiprocessor: UInt32,
    _ noise: UnsafeMutablePointer<ds_noise>!
) -> ds_status {
    status {
        let out = try require(noise, "noise")
        out.pointee.handle = try noiseSources.insert(
            NoiseHolder(
                torchCUDA: torchCUDA(
                    seed: seed, offset: offset, multiprocessors: n_multiprocessors, threads: n_threads_per_multiprocessor)))
    }
}

private func torchCUDA(seed: UInt64, offset: UInt64, multiprocessors: UInt32, threads: UInt32) throws -> TorchCUDANoise {
    guard offset % 4 == 0 else {
        throw SchedulerError.invalidValue(key: "offset", value: "\(offset)", allowed: "a multiple of 4")
    }
    guard (1...65_535).contains(multiprocessors) else {
        throw SchedulerError.invalidValue(key: "n_multiprocessors", value: "\(multiprocessors)", allowed: "from 1 to 65535")
    }
    guard (256...65_535).contains(threads) else {
        throw SchedulerError.invalidValue(key: "n_threads_per_multiprocessor", value: "\(threads)", allowed: "from 256 to 65535")
    }
    return TorchCUDANoise(
        seed: seed, offset: offset,
        device: CUDADevice(multiprocessorCount: Int(multiprocessors), threadsPerMultiprocessor: Int(threads)))
}

@c(ds_noise_free) @implementation
public func ds_noise_free(_ noise: ds_noise) -> ds_status {
    status { if noise.handle != 0 { try noiseSources.remove(noise.handle) } }
}

@c(ds_noise_copy) @implementation
public func ds_noise_copy(_ noise: ds_noise, _ copy: UnsafeMutablePointer<ds_noise>!) -> ds_status {
    status {
        let holder = try noise.holder.pointee, out = try require(copy, "copy")
        out.pointee.handle = try noiseSources.insert(holder)
    }
}

@c(ds_noise_fill) @implementation
public func ds_noise_fill(_ noise: ds_noise, _ out: UnsafePointer<ds_tensor>!, _ max_threads: UInt32) -> ds_status {
    status {
        let holder = try noise.holder, out = try Tensor(out, .output), threads = Int(max_threads)
        switch out.elementType {
        case .float32:
            let isCUDA = holder.pointee.torchCUDA != nil
            guard !isCUDA || out.elementCount <= 1 << 29 else {
                throw SchedulerError.wrongElementCount(argument: "out", count: out.elementCount, expected: "at most 2^29")
            }
            var span = MutableSpan(
                _unsafeStart: out.address.assumingMemoryBound(to: Float.self), count: out.elementCount)
            holder.pointee.torchCPU?.fill(&span, maximumThreads: threads)
            holder.pointee.torchCUDA?.fill(&span, maximumThreads: threads)
            holder.pointee.numPy?.fill(&span)
        case .float64 where holder.pointee.torchCUDA == nil:
            var span = MutableSpan(
                _unsafeStart: out.address.assumingMemoryBound(to: Double.self), count: out.elementCount)
            holder.pointee.torchCPU?.fill(&span, maximumThreads: threads)
            holder.pointee.numPy?.fill(&span)
        default:
            throw SchedulerError.wrongElementType(
                argument: "out", type: out.elementType.rawValue,
                expected: holder.pointee.torchCUDA == nil ? "float32 or float64" : "float32")
        }
    }
}

// MARK: - Saving

// All numbers are little-endian:
//
//     0   8  44 53 4E 4F 49 53 0D 0A
//     8   4  1, the version of the format
//     12  4  the kind
//     then for the twisters                           and for torch on CUDA
//     16  4  drawn words, 0 to 624                    16  8  seed
//     20  4  1 if there is a spare normal, else 0     24  8  offset
//     24  8  the spare normal, or 0                   32  4  multiprocessors
//     32  …  624 words of 4 bytes                     36  4  threads of a multiprocessor
//     the last 8 bytes: XXH64 of everything before, seed 0

private let signature: UInt64 = 0x0A0D_5349_4F4E_5344
private let version: UInt32 = 1

extension NoiseHolder {
    var saved: [UInt8] {
        var bytes: [UInt8] = []
        func add(_ number: some FixedWidthInteger) { withUnsafeBytes(of: number.littleEndian) { bytes += $0 } }
        func add(_ state: MersenneTwisterState) {
            add(UInt32(state.drawnWordCount))
            add(UInt32(state.spareNormal == nil ? 0 : 1))
            add(state.spareNormal?.bitPattern ?? 0)
            for word in state.words { add(word) }
        }
        add(signature)
        add(version)
        if let torchCPU {
            add(DS_NOISE_TORCH_CPU.rawValue)
            add(torchCPU.state)
        } else if let torchCUDA {
            add(DS_NOISE_TORCH_CUDA.rawValue)
            add(torchCUDA.seed)
            add(torchCUDA.offset)
            add(UInt32(torchCUDA.device.multiprocessorCount))
            add(UInt32(torchCUDA.device.threadsPerMultiprocessor))
        } else if let numPy {
            add(DS_NOISE_NUMPY.rawValue)
            add(numPy.state)
        }
        add(bytes.withUnsafeBytes { Checksum.of($0) })
        return bytes
    }

    init(restoring bytes: UnsafeRawBufferPointer) throws {
        func load<Number: FixedWidthInteger & BitwiseCopyable>(_ type: Number.Type, at offset: Int) -> Number {
            Number(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: type))
        }
        func twister() throws -> MersenneTwisterState {
            try MersenneTwisterState(
                words: (0..<MersenneTwisterState.wordCount).map { load(UInt32.self, at: 32 + 4 * $0) },
                drawnWordCount: Int(load(UInt32.self, at: 16)),
                spareNormal: load(UInt32.self, at: 20) == 0 ? nil : Double(bitPattern: load(UInt64.self, at: 24)))
        }
        let sizes = [
            DS_NOISE_TORCH_CPU.rawValue: 32 + 4 * MersenneTwisterState.wordCount + 8, DS_NOISE_TORCH_CUDA.rawValue: 48,
            DS_NOISE_NUMPY.rawValue: 32 + 4 * MersenneTwisterState.wordCount + 8,
        ]
        guard bytes.count >= 24, load(UInt64.self, at: 0) == signature else {
            throw SchedulerError.damagedState(reason: "it doesn't begin like a saved noise source")
        }
        guard load(UInt32.self, at: 8) == version else {
            throw SchedulerError.damagedState(
                reason: "its format has version \(load(UInt32.self, at: 8)), but must have version \(version)")
        }
        let kind = load(UInt32.self, at: 12), end = bytes.count - 8
        guard sizes[kind] == bytes.count else {
            throw SchedulerError.damagedState(reason: "it has \(bytes.count) bytes and the kind \(kind), which don't match")
        }
        guard load(UInt64.self, at: end) == Checksum.of(UnsafeRawBufferPointer(rebasing: bytes[..<end])) else {
            throw SchedulerError.damagedState(reason: "its checksum doesn't match its bytes")
        }
        switch kind {
        case DS_NOISE_TORCH_CPU.rawValue: self.init(torchCPU: TorchCPUNoise(state: try twister()))
        case DS_NOISE_NUMPY.rawValue: self.init(numPy: NumPyNoise(state: try twister()))
        default:
            self.init(
                torchCUDA: try DiffusionSchedulingC.torchCUDA(
                    seed: load(UInt64.self, at: 16), offset: load(UInt64.self, at: 24),
                    multiprocessors: load(UInt32.self, at: 32), threads: load(UInt32.self, at: 36)))
        }
    }
}

@c(ds_noise_save) @implementation
public func ds_noise_save(
    _ noise: ds_noise, _ bytes: UnsafeMutableRawPointer!, _ capacity: Int, _ length: UnsafeMutablePointer<Int>!
) -> ds_status {
    status {
        let saved = try noise.holder.pointee.saved
        guard try hasRoom(for: saved.count, in: bytes, capacity, length, "length"), let bytes else { return }
        bytes.copyMemory(from: saved, byteCount: saved.count)
    }
}

@c(ds_noise_restore) @implementation
public func ds_noise_restore(
    _ bytes: UnsafeRawPointer!, _ length: Int, _ noise: UnsafeMutablePointer<ds_noise>!
) -> ds_status {
    status {
        let saved = UnsafeRawBufferPointer(start: try require(bytes, "bytes"), count: max(length, 0))
        let out = try require(noise, "noise")
        out.pointee.handle = try noiseSources.insert(NoiseHolder(restoring: saved))
    }
}

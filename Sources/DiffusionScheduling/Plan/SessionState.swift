// SPDX-License-Identifier: Apache-2.0

// Sessions as bytes, to go on elsewhere or later: after a restart, on another machine, from a checkpoint in the middle of a run.

extension SamplingSession {
    /// The session's state: the next step, and the slots that are still to be read.
    ///
    /// ```swift
    /// let bytes = session.savedState()
    /// var resumed = try SamplingSession(plan: plan, restoring: bytes)
    /// ```
    ///
    /// It contains a fingerprint of the plan, not the plan. `maximumThreads` belongs to the machine and isn't saved.
    ///
    /// All numbers are little-endian:
    ///
    /// | offset | bytes | |
    /// |---|---|---|
    /// | 0 | 8 | `44 53 53 45 53 53 0D 0A` |
    /// | 8 | 4 | 1, the version of the form |
    /// | 12 | 4 | the element type as the C interface numbers it; 2³² − 1 before the first step |
    /// | 16 | 8 | the number of all bytes |
    /// | 24 | 8 | the plan's fingerprint |
    /// | 32 | 8 | the index of the first step |
    /// | 40 | 8 | the index of the step that comes next |
    /// | 48 | 8 | the number of elements of the sample; 0 before the first step |
    /// | 56 | 8 | the slots that are saved: bit k for slot k |
    /// | 64 | … | their elements, slot by slot |
    /// | the last 8 | 8 | XXH64 of everything before, seed 0 |
    ///
    /// - Complexity: O(elements).
    public func savedState() -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: savedByteCount) { buffer, initializedCount in
            save(to: UnsafeMutableRawBufferPointer(buffer))
            initializedCount = savedByteCount
        }
    }

    /// Continues from a saved state, with the same bits as if the session had never been saved.
    ///
    /// - Parameters:
    ///   - plan: the plan of that session, or one that equals it to the last bit.
    ///   - bytes: the state, as ``savedState()`` wrote it.
    /// - Throws: `damagedState`, `foreignState` if the plan is another one, `outOfMemory`.
    /// - Complexity: O(elements).
    public init(plan: SamplingPlan, restoring bytes: [UInt8]) throws(SchedulerError) {
        let result = bytes.withUnsafeBytes { bytes in
            Result { () throws(SchedulerError) in try SamplingSession(plan: plan, restoring: bytes) }
        }
        self = try result.get()
    }

    /// The size of the saved state in bytes.
    package var savedByteCount: Int {
        SavedSession.headerByteCount + liveSlots.nonzeroBitCount * slotByteCount + SavedSession.checksumByteCount
    }

    private var slotByteCount: Int { elementCount * (elementType?.size ?? 0) }

    /// The slots that the next step or a later one reads: bit k for slot k.
    private var liveSlots: UInt8 {
        hasBegun && stepIndex < plan.stepCount ? plan.kernelRows.row(at: stepIndex, age: age).pointee.live : 0
    }

    /// Calls the body with each of the slots in the set and the place of its elements in a saved state.
    private func forEachSlot(in set: UInt8, _ body: (_ slot: Int, _ range: Range<Int>) -> Void) {
        var start = SavedSession.headerByteCount
        for slot in 0..<plan.slotCount where set >> UInt8(slot) & 1 != 0 {
            body(slot, start..<start + slotByteCount)
            start += slotByteCount
        }
    }

    /// - Precondition: `bytes` has `savedByteCount` bytes.
    package func save(to bytes: UnsafeMutableRawBufferPointer) {
        let header = SavedSession(
            byteCount: savedByteCount, planFingerprint: plan.fingerprint, beginIndex: beginIndex, stepIndex: stepIndex,
            elementType: elementType, elementCount: elementCount, slots: UInt64(liveSlots))
        header.write(to: bytes)
        if let slots, let elementType {
            forEachSlot(in: liveSlots) { slot, range in
                let target = UnsafeMutableRawBufferPointer(rebasing: bytes[range])
                target.copyMemory(from: UnsafeRawBufferPointer(start: slots.addresses[slot], count: range.count))
                elementType.swapBytesIfBigEndian(target)
            }
        }
        SavedSession.seal(bytes)
    }

    package init(plan: SamplingPlan, restoring bytes: UnsafeRawBufferPointer) throws(SchedulerError) {
        let saved = try SavedSession(bytes)
        guard saved.planFingerprint == plan.fingerprint else {
            throw .foreignState(
                reason: "this plan has \(plan.stepCount) steps and must equal the saved session's in every bit")
        }
        self.init(plan: plan)
        guard (0...plan.stepCount).contains(saved.beginIndex), (saved.beginIndex...plan.stepCount).contains(saved.stepIndex) else {
            throw .damagedState(
                reason: "it is at step \(saved.stepIndex) from \(saved.beginIndex), but the plan has \(plan.stepCount)")
        }
        guard saved.beginIndex == plan.stepCount || plan.isStart(saved.beginIndex) else {
            throw .damagedState(reason: "no run of this plan begins at step \(saved.beginIndex)")
        }
        self = SamplingSession(plan: plan, beginIndex: saved.beginIndex)
        stepIndex = saved.stepIndex
        elementType = saved.elementType
        elementCount = saved.elementCount
        guard saved.slots == UInt64(liveSlots), (saved.elementType != nil) == hasBegun else {
            throw .damagedState(reason: "it holds other slots than step \(stepIndex) of a run from step \(beginIndex) needs")
        }
        // Slots that no step reads any more get their memory at the next step, whose tensors confirm the number of elements.
        guard let elementType, liveSlots != 0 else { return }
        let slots = try SlotStorage(slotCount: plan.slotCount, elementCount: elementCount, elementType: elementType)
        forEachSlot(in: liveSlots) { slot, range in
            let target = UnsafeMutableRawBufferPointer(start: slots.addresses[slot], count: range.count)
            target.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[range]))
            elementType.swapBytesIfBigEndian(target)
        }
        self.slots = slots
    }
}

/// The head of a saved session, checked.
private struct SavedSession {
    static let headerByteCount = 64
    static let checksumByteCount = 8
    private static let signature: UInt64 = 0x0A0D_5353_4553_5344
    private static let version: UInt32 = 1

    var byteCount: Int
    var planFingerprint: UInt64
    var beginIndex: Int
    var stepIndex: Int
    var elementType: ElementType?
    var elementCount: Int
    /// Bit k for slot k.
    var slots: UInt64
}

extension SavedSession {
    func write(to bytes: UnsafeMutableRawBufferPointer) {
        func store(_ value: some FixedWidthInteger, at offset: Int) {
            bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: type(of: value).self)
        }
        store(Self.signature, at: 0)
        store(Self.version, at: 8)
        store(elementType?.savedNumber ?? UInt32.max, at: 12)
        store(UInt64(byteCount), at: 16)
        store(planFingerprint, at: 24)
        store(UInt64(beginIndex), at: 32)
        store(UInt64(stepIndex), at: 40)
        store(UInt64(elementCount), at: 48)
        store(slots, at: 56)
    }

    static func seal(_ bytes: UnsafeMutableRawBufferPointer) {
        let end = bytes.count - checksumByteCount
        let checksum = Checksum.of(UnsafeRawBufferPointer(rebasing: bytes[..<end]))
        bytes.storeBytes(of: checksum.littleEndian, toByteOffset: end, as: UInt64.self)
    }

    init(_ bytes: UnsafeRawBufferPointer) throws(SchedulerError) {
        func load<Number: FixedWidthInteger & BitwiseCopyable>(_ type: Number.Type, at offset: Int) -> Number {
            Number(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: type))
        }
        func count(at offset: Int) throws(SchedulerError) -> Int {
            guard let value = Int(exactly: load(UInt64.self, at: offset)) else {
                throw .damagedState(reason: "it contains a number that is too large")
            }
            return value
        }
        let fewest = Self.headerByteCount + Self.checksumByteCount
        guard bytes.count >= fewest else {
            throw .damagedState(reason: "it has \(bytes.count) bytes, but must have at least \(fewest)")
        }
        guard load(UInt64.self, at: 0) == Self.signature else {
            throw .damagedState(reason: "it doesn't begin like a saved session")
        }
        let version = load(UInt32.self, at: 8)
        guard version == Self.version else {
            throw .damagedState(reason: "its format has version \(version), but must have version \(Self.version)")
        }
        byteCount = try count(at: 16)
        guard byteCount == bytes.count else {
            throw .damagedState(reason: "it has \(bytes.count) bytes, but \(byteCount) were saved")
        }
        let end = bytes.count - Self.checksumByteCount
        guard load(UInt64.self, at: end) == Checksum.of(UnsafeRawBufferPointer(rebasing: bytes[..<end])) else {
            throw .damagedState(reason: "its checksum doesn't match its bytes")
        }
        planFingerprint = load(UInt64.self, at: 24)
        beginIndex = try count(at: 32)
        stepIndex = try count(at: 40)
        elementCount = try count(at: 48)
        slots = load(UInt64.self, at: 56)
        let number = load(UInt32.self, at: 12)
        elementType = number == .max ? nil : ElementType(savedNumber: number)
        guard elementType != nil || (number == .max && elementCount == 0) else {
            throw .damagedState(reason: "its element type has the unknown number \(number)")
        }
        // A slot has to fit the address space even where none is saved.
        let output = elementCount.multipliedReportingOverflow(by: elementType?.size ?? 0)
        let all = output.partialValue.multipliedReportingOverflow(by: slots.nonzeroBitCount)
        guard !output.overflow, !all.overflow, all.partialValue == end - Self.headerByteCount else {
            throw .damagedState(
                reason: "it doesn't have the bytes of \(slots.nonzeroBitCount) slots of \(elementCount) elements")
        }
    }
}

extension ElementType {
    /// The number that stands for the type in saved states and in C.
    package var savedNumber: UInt32 {
        switch self {
        case .float32: 0
        case .float64: 1
        case .float16: 2
        case .bfloat16: 3
        }
    }

    package init?(savedNumber: UInt32) {
        guard let type = Self.allCases.first(where: { $0.savedNumber == savedNumber }) else { return nil }
        self = type
    }

    fileprivate func swapBytesIfBigEndian(_ bytes: UnsafeMutableRawBufferPointer) {
        #if _endian(big)
            for start in stride(from: 0, to: bytes.count, by: size) { bytes[start..<start + size].reverse() }
        #endif
    }
}

extension SamplingPlan {
    /// A checksum of every bit of the plan.
    ///
    /// - Complexity: O(steps).
    var fingerprint: UInt64 {
        var words: [UInt64] = []
        func add(_ combination: Combination) {
            // −0 counts as 0: it isn't read either, and a coded plan has neither.
            let streams = [combination.sample, combination.modelOutput, combination.noise, combination.prediction]
            words += (streams + (0..<slotCount).map { combination[.slot($0)] }).map { $0 == 0 ? 0 : $0.bitPattern }
        }
        let process = UInt64(NoiseProcess.allCases.firstIndex(of: grid.process)!)
        words += [1, UInt64(stepCount), UInt64(slotCount), UInt64(warmUp), process, modelLearnsVariance ? 1 : 0]
        words += (grid.timesteps + grid.sigmas + inputScales + [initNoiseSigma]).map(\.bitPattern) + steps.map { UInt64($0) }
        for weights in outputWeights { words += [UInt64(weights.count)] + weights.map(\.bitPattern) }
        words += reportName.utf8.map { UInt64($0) }
        switch clamp {
        case .none: words.append(0)
        case .range(let limit): words += [1, limit.bitPattern]
        case .dynamicThreshold(let ratio, let maximum): words += [2, ratio.bitPattern, maximum.bitPattern]
        }
        for index in 0..<stepCount {
            for age in 0...min(index, warmUp) {
                let row = row(at: index, age: age)
                add(row.prediction)
                add(row.nextSample)
                for store in row.stores {
                    words.append(UInt64(store.slot))
                    add(store.value)
                }
                if let report = row.report { add(report) }
                words.append(UInt64(row.drawCount))
                switch row.noiseFactor {
                case .none: break
                case .root: words.append(1)
                case .exponential(let offset, let slope): words += [2, offset.bitPattern, slope.bitPattern]
                }
            }
        }
        return words.map(\.littleEndian).withUnsafeBytes { Checksum.of($0) }
    }
}

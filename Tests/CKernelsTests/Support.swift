// SPDX-License-Identifier: Apache-2.0

/// Helpers of all C core tests: seeded random data, tensors with watched surroundings, calls, and the process-wide switches.
/// Oracle.swift has the plain oracle.

import CKernels
import CTestSupport
import Foundation
import TestDraws
import Testing

/// All tests of the C core, one after the other: some set the whole process's limits and instruction set, which change no result
/// but change what other tests cover.
@Suite("CKernels", .serialized)
enum KernelTests {}

// MARK: - Element types

/// The element types that tests use: Swift's own types conform, and `Brain` is made here.
protocol Element: BitwiseCopyable, Comparable, ExpressibleByFloatLiteral, ExpressibleByIntegerLiteral {
    /// The type of p in items whose tensors all have this type.
    associatedtype Prediction: Element
    static var kind: ElementKind { get }
    /// Rounded once, to nearest and even.
    init(_ value: Double)
    /// The value in float64, which is exact.
    var widened: Double { get }

    var isNaN: Bool { get }
    var nextUp: Self { get }
    var nextDown: Self { get }
    static var infinity: Self { get }
    static var nan: Self { get }
    static var leastNonzeroMagnitude: Self { get }
    static var leastNormalMagnitude: Self { get }
    static var greatestFiniteMagnitude: Self { get }
    static prefix func - (value: Self) -> Self
    static func * (a: Self, b: Self) -> Self
    static func / (a: Self, b: Self) -> Self
}

extension Float: Element {
    typealias Prediction = Float
    static var kind: ElementKind { .float32 }
    var widened: Double { Double(self) }
}

extension Double: Element {
    typealias Prediction = Double
    static var kind: ElementKind { .float64 }
    var widened: Double { self }
}

extension Float16: Element {
    typealias Prediction = Float
    static var kind: ElementKind { .float16 }
    var widened: Double { Double(self) }
}

/// bfloat16. It computes in float64 and rounds the result.
struct Brain: Element, CustomStringConvertible {
    typealias Prediction = Float
    static var kind: ElementKind { .bfloat16 }
    var bits: UInt16

    init(bits: UInt16) { self.bits = bits }

    /// Compares the distances to the two neighbours.
    init(_ value: Double) {
        let sign: UInt16 = value.sign == .minus ? 0x8000 : 0
        let magnitude = value.magnitude
        guard !value.isNaN else { self.init(bits: 0x7fc0); return }
        guard magnitude < 0x1p128 else { self.init(bits: sign | 0x7f80); return }
        var float = Float(magnitude)
        if Double(float) > magnitude { float = float.nextDown }
        let below = UInt16(float.bitPattern >> 16)
        let neighbours = [below, below + 1].map { $0 == 0x7f80 ? 0x1p128 : Brain(bits: $0).widened }
        let middle = (neighbours[0] + neighbours[1]) / 2  // exact
        let up = magnitude > middle || (magnitude == middle && below % 2 == 1)
        self.init(bits: sign | (up ? below + 1 : below))
    }

    init(floatLiteral value: Double) { self.init(value) }
    init(integerLiteral value: Int) { self.init(Double(value)) }

    var widened: Double { Double(Float(bitPattern: UInt32(bits) << 16)) }
    var isNaN: Bool { widened.isNaN }
    var nextUp: Brain { Brain(bits: bits < 0x8000 ? bits + 1 : bits - 1) }  // not for zeros
    var nextDown: Brain { Brain(bits: bits < 0x8000 ? bits - 1 : bits + 1) }
    var description: String { "\(widened)" }
    static var infinity: Brain { Brain(bits: 0x7f80) }
    static var nan: Brain { Brain(bits: 0x7fc0) }
    static var leastNonzeroMagnitude: Brain { Brain(bits: 1) }
    static var leastNormalMagnitude: Brain { Brain(bits: 0x80) }
    static var greatestFiniteMagnitude: Brain { Brain(bits: 0x7f7f) }
    static func == (a: Brain, b: Brain) -> Bool { a.widened == b.widened }
    static func < (a: Brain, b: Brain) -> Bool { a.widened < b.widened }
    static prefix func - (value: Brain) -> Brain { Brain(bits: value.bits ^ 0x8000) }
    static func * (a: Brain, b: Brain) -> Brain { Brain(a.widened * b.widened) }
    static func / (a: Brain, b: Brain) -> Brain { Brain(a.widened / b.widened) }
}

/// The element types, ordered by their numbers in C.
enum ElementKind: String, CaseIterable, Codable, CustomTestStringConvertible {
    case float32, float64, float16, bfloat16

    var type: any Element.Type {
        switch self {
        case .float32: Float.self
        case .float64: Double.self
        case .float16: Float16.self
        case .bfloat16: Brain.self
        }
    }
    var cType: dsk_element_type { [DSK_FLOAT32, DSK_FLOAT64, DSK_FLOAT16, DSK_BFLOAT16][Self.allCases.firstIndex(of: self)!] }
    var size: Int { dsk_element_size(cType) }
    var testDescription: String { rawValue }
}

// MARK: - Failures

/// A difference between the core and the expected result. A test that loops over thousands of cases throws it, so it reports the
/// first failure with everything needed to reproduce it.
struct Mismatch: Error, CustomStringConvertible {
    let description: String
}

/// Throws unless `problem` is nil.
func require(noProblem problem: String?, _ context: @autoclosure () -> String) throws {
    guard let problem else { return }
    throw Mismatch(description: "\(context()): \(problem) [\(TestDraws.seedSetting)]")
}

func require(_ status: dsk_status, is expected: dsk_status = DSK_OK, _ context: @autoclosure () -> String) throws {
    guard status != expected else { return }
    throw Mismatch(
        description: "\(context()): status \(status.rawValue) (\(String(cString: dsk_status_message(status)))), expected "
            + "\(expected.rawValue) [\(TestDraws.seedSetting)]")
}

// MARK: - Random data

/// SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195). Every test has its own generator, so its draws don't depend on the
/// tests that run before it.
struct Random: RandomNumberGenerator {
    private var state: UInt64

    init(_ purpose: String) {
        state = TestDraws.seed
        for byte in purpose.utf8 { state = (state ^ UInt64(byte)) &* 0x100_0000_01b3 }
    }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }

    mutating func below(_ count: Int) -> Int { Int(next() % UInt64(count)) }

    mutating func chance(_ percent: Int) -> Bool { below(100) < percent }

    /// 53 random bits, either sign, magnitudes from 2^-5 to 2^4: sums of a few of them round, cancel, and never overflow.
    mutating func double() -> Double {
        let bits = next()
        let mantissa = 1 + Double(bits >> 12) * 0x1p-52
        let scaled = mantissa * Self.scales[Int(bits & 7)]
        return bits & 8 == 0 ? scaled : -scaled
    }
    private static let scales = (-5...2).map { scalbn(1.0, $0) }

    mutating func values<T: Element>(_ count: Int) -> [T] {
        (0..<count).map { _ in T(double()) }
    }

    /// Like `values`, with special IEEE values among them.
    mutating func wildValues<T: Element>(_ count: Int) -> [T] {
        (0..<count).map { _ in chance(4) ? T.oddValues[below(T.oddValues.count)] : T(double()) }
    }

    /// Elements between a 64-byte boundary and a tensor's start, for every alignment a caller may use.
    mutating func offset() -> Int { below(18) }

    /// Zero, exactly one, or a number with more bits than any element type uses of it.
    mutating func coefficient(zeroPercent: Int = 30) -> Double {
        if chance(zeroPercent) { return 0 }
        switch below(10) {
        case 0: return 1
        case 1: return -1
        default: return double()
        }
    }

    mutating func row(zeroPercent: Int = 30) -> Row {
        var row = Row()
        for input in 0..<Row.predictionInputCount { row.prediction[input] = coefficient(zeroPercent: zeroPercent) }
        for output in 0..<Row.outputCount {
            for term in 0..<Row.termCount { row.outputs[output][term] = coefficient(zeroPercent: zeroPercent) }
        }
        row.clamp = [DSK_CLAMP_NONE, DSK_CLAMP_RANGE, DSK_CLAMP_THRESHOLD][below(3)]
        row.clampRange = abs(double())
        return row
    }

    /// A random non-empty choice of wanted outputs.
    mutating func wantedOutputs() -> [Bool] {
        let bits = 1 + below(7)
        return (0..<Row.outputCount).map { bits >> $0 & 1 == 1 }
    }
}

extension Element {
    static var oddValues: [Self] {
        [
            0, -0.0, 1, -1, .leastNonzeroMagnitude, -.leastNonzeroMagnitude, .leastNormalMagnitude,
            .leastNormalMagnitude.nextDown, -.leastNormalMagnitude.nextDown, .greatestFiniteMagnitude,
            -.greatestFiniteMagnitude, .infinity, -.infinity, .nan, -.nan,
        ]
    }
}

// MARK: - Rows

/// `dsk_row` with arrays in place of tuples.
struct Row {
    static let inputCount = Int(DSK_INPUT_COUNT.rawValue)
    static let termCount = Int(DSK_TERM_COUNT.rawValue)
    static let predictionInputCount = Int(DSK_PREDICTION_INPUT_COUNT)
    static let outputCount = Int(DSK_OUTPUT_COUNT)
    static let predictionTerm = Int(DSK_PREDICTION.rawValue)

    var prediction = [Double](repeating: 0, count: predictionInputCount)
    var outputs = [[Double]](repeating: [Double](repeating: 0, count: termCount), count: outputCount)
    var clamp = DSK_CLAMP_NONE
    var clampRange = 1.0
    var thresholdRatio = 0.9
    var thresholdMaximum = 9.0
    var noiseFactor = DSK_NOISE_FACTOR_NONE
    var noiseOffset = 0.0
    var noiseSlope = 0.0

    var cValue: dsk_row {
        var row = dsk_row()
        withUnsafeMutableBytes(of: &row.prediction) { bytes in prediction.withUnsafeBytes(bytes.copyMemory) }
        withUnsafeMutableBytes(of: &row.outputs) { bytes in Array(outputs.joined()).withUnsafeBytes(bytes.copyMemory) }
        row.clamp = clamp
        row.clamp_range = clampRange
        row.threshold_ratio = thresholdRatio
        row.threshold_maximum = thresholdMaximum
        row.noise_factor = noiseFactor
        row.noise_offset = noiseOffset
        row.noise_slope = noiseSlope
        return row
    }

    /// The row in the form that steps take.
    var prepared: dsk_prepared_row {
        var row = cValue, prepared = dsk_prepared_row()
        let status = dsk_prepare_row(&row, &prepared)
        precondition(status == DSK_OK, String(cString: dsk_status_message(status)))
        return prepared
    }

    /// Whether an output that is wanted needs p.
    func usesPrediction(wanted: [Bool]) -> Bool {
        (0..<Self.outputCount).contains { wanted[$0] && outputs[$0][Self.predictionTerm] != 0 }
    }

    /// Whether a step to the wanted outputs needs the tensor.
    func reads(_ input: Int, wanted: [Bool]) -> Bool {
        if (0..<Self.outputCount).contains(where: { wanted[$0] && outputs[$0][input] != 0 }) { return true }
        return input < Self.predictionInputCount && prediction[input] != 0 && usesPrediction(wanted: wanted)
    }

    /// The streams of a step: inputs that are read and outputs that are written.
    func streamCount(wanted: [Bool]) -> Int {
        (0..<Self.inputCount).count { reads($0, wanted: wanted) } + wanted.count { $0 }
    }
}

// MARK: - Tensors

/// Elements at a chosen misalignment, between bytes whose changes a test can detect.
final class Tensor<T: Element> {
    private static var margin: Int { 128 }
    private static var untouched: UInt8 { 0xa5 }

    let pointer: UnsafeMutablePointer<T>
    let count: Int
    private let allocation: UnsafeMutableRawBufferPointer

    /// An unwritten tensor, `offset` elements after a 64-byte boundary.
    init(count: Int, offset: Int = 0) {
        let stride = MemoryLayout<T>.stride
        allocation = .allocate(byteCount: 2 * Self.margin + (offset + count) * stride, alignment: 64)
        pointer = (allocation.baseAddress! + Self.margin + offset * stride).bindMemory(to: T.self, capacity: max(count, 1))
        self.count = count
        reset()
    }

    convenience init(_ values: [T], offset: Int = 0) {
        self.init(count: values.count, offset: offset)
        set(values)
    }

    deinit { allocation.deallocate() }

    func reset() { memset(allocation.baseAddress!, Int32(Self.untouched), allocation.count) }

    func set(_ values: [T]) { memcpy(pointer, values, values.count * MemoryLayout<T>.stride) }

    var values: [T] { Array(UnsafeBufferPointer(start: pointer, count: count)) }

    /// nil if the first `expected.count` elements (or the first `prefix`) have the expected bits and no other byte has changed. All
    /// NaNs are equal: IEEE 754 leaves open which operand's payload a sum inherits.
    func problem(expecting expected: [T], prefix: Int? = nil) -> String? {
        let written = prefix ?? expected.count
        if let difference = firstDifference(pointer, expected, count: written) { return difference }
        let stride = MemoryLayout<T>.stride
        let before = UnsafeRawPointer(pointer) - UnsafeRawPointer(allocation.baseAddress!)
        if !isUntouched(0..<before) { return "bytes before the tensor were written" }
        if !isUntouched(before + written * stride..<allocation.count) { return "bytes after element \(written) were written" }
        return nil
    }

    private func isUntouched(_ range: Range<Int>) -> Bool {
        let start = allocation.baseAddress! + range.lowerBound
        // Memory that equals itself shifted by one byte has one value in all bytes.
        return start.load(as: UInt8.self) == Self.untouched && memcmp(start, start + 1, range.count - 1) == 0
    }
}

/// nil if the elements have the expected bits; any NaN equals any other.
func firstDifference<T: Element>(_ actual: UnsafePointer<T>, _ expected: [T], count: Int) -> String? {
    let size = MemoryLayout<T>.stride
    if memcmp(actual, expected, count * size) == 0 { return nil }
    return expected.withUnsafeBufferPointer { expected in
        for i in 0..<count where memcmp(actual + i, expected.baseAddress! + i, size) != 0 {
            if actual[i].isNaN && expected[i].isNaN { continue }
            return "element \(i) of \(count) is \(actual[i]), expected \(expected[i])"
        }
        return nil
    }
}

// MARK: - Calls

/// The items of a call; their rows keep their addresses.
final class Call<T: Element> {
    private(set) var items: [dsk_item] = []
    private var rows: [UnsafeMutablePointer<dsk_prepared_row>] = []
    /// Keeps alive the tensors that the items point to.
    private var tensors: [Tensor<T>?] = []
    private let workspaces = Workspaces()

    init() {}

    convenience init(
        _ row: Row, inputs: [Tensor<T>?], outputs: [Tensor<T>?], count: Int, threshold: Double = 0
    ) {
        self.init()
        add(row, inputs: inputs, outputs: outputs, count: count, threshold: threshold)
    }

    deinit { rows.forEach { $0.deallocate() } }

    func add(_ row: Row, inputs: [Tensor<T>?], outputs: [Tensor<T>?], count: Int, threshold: Double = 0) {
        tensors += inputs + outputs
        add(
            row, inputPointers: inputs.map { $0.map { UnsafeRawPointer($0.pointer) } },
            outputPointers: outputs.map { $0.map { UnsafeMutableRawPointer($0.pointer) } }, count: count, threshold: threshold)
    }

    /// Arrays shorter than the item's are padded with NULL.
    func add(
        _ row: Row, inputPointers: [UnsafeRawPointer?], outputPointers: [UnsafeMutableRawPointer?], count: Int,
        threshold: Double = 0
    ) {
        let storedRow = UnsafeMutablePointer<dsk_prepared_row>.allocate(capacity: 1)
        storedRow.initialize(to: row.prepared)
        rows.append(storedRow)
        var item = dsk_item()
        item.row = UnsafePointer(storedRow)
        withUnsafeMutableBytes(of: &item.inputs) { bytes in inputPointers.withUnsafeBytes(bytes.copyMemory) }
        withUnsafeMutableBytes(of: &item.outputs) { bytes in outputPointers.withUnsafeBytes(bytes.copyMemory) }
        item.setTypes(T.kind.cType)
        item.n_elements = count
        item.threshold = threshold
        items.append(item)
    }

    /// Makes changes that `add` can't express.
    func change(_ item: Int = 0, _ body: (inout dsk_item) -> Void) { body(&items[item]) }

    func setCount(_ count: Int, item: Int = 0) { items[item].n_elements = count }

    // The optimiser doesn't see the pointers in the items, so the tensors are kept alive explicitly until the call ends.

    func step(threads: UInt32 = 1) -> dsk_status {
        withExtendedLifetime(self) { dsk_step(items, items.count, threads) }
    }

    func findThresholds(ratio: Double, maxValue: Double, threads: UInt32 = 1) -> dsk_status {
        for (row, item) in zip(rows, items.indices) {
            var thresholded = row.pointee.row
            thresholded.clamp = DSK_CLAMP_THRESHOLD
            thresholded.threshold_ratio = ratio
            thresholded.threshold_maximum = maxValue
            let status = dsk_prepare_row(&thresholded, row)
            if status != DSK_OK { return status }
            items[item].workspace = workspaces.room(for: items[item].n_elements, item: item)
        }
        let status = withExtendedLifetime(self) { dsk_find_thresholds(&items, items.count, threads) }
        #expect(workspaces.areIntact, "a workspace was written beyond its end")
        return status
    }

    var thresholds: [Double] { items.map(\.threshold) }
}

/// Workspaces for the thresholds of a call's items, exactly the size that the core asks for, with a mark behind each.
final class Workspaces {
    private static let mark: UInt64 = 0x5AFE_5AFE_5AFE_5AFE
    private var rooms: [Int: (address: UnsafeMutablePointer<UInt64>, words: Int)] = [:]

    deinit { rooms.values.forEach { $0.address.deallocate() } }

    func room(for elements: Int, item: Int) -> UnsafeMutableRawPointer {
        // Counts beyond any memory test the errors.
        let words = elements < 1 << 40 ? dsk_threshold_workspace_size(elements) / 8 : 0
        if let room = rooms[item], room.words == words { return UnsafeMutableRawPointer(room.address) }
        rooms[item]?.address.deallocate()
        let address = UnsafeMutablePointer<UInt64>.allocate(capacity: words + 1)
        address[words] = Self.mark
        rooms[item] = (address, words)
        return UnsafeMutableRawPointer(address)
    }

    var areIntact: Bool { rooms.values.allSatisfy { $0.address[$0.words] == Self.mark } }
}

extension dsk_item {
    mutating func setTypes(_ type: dsk_element_type) {
        input_types = (type, type, type, type, type, type, type, type, type, type, type)
        output_types = (type, type, type)
    }
}

// MARK: - Process-wide switches

extension dsk_isa {
    /// The instruction sets that this build and this processor have.
    static let available: [dsk_isa] = {
        defer { dsk_limit_isa(DSK_ISA_AVX512) }
        return [DSK_ISA_BASELINE, DSK_ISA_AVX2, DSK_ISA_AVX512].filter { dsk_limit_isa($0) == $0 }
    }()
}

/// Runs the body once with every instruction set that the processor has, then restores the best.
func forEachISA(_ body: (dsk_isa) throws -> Void) rethrows {
    let available = dsk_isa.available
    defer { dsk_limit_isa(DSK_ISA_AVX512) }
    for isa in available {
        dsk_limit_isa(isa)
        try body(isa)
    }
}

/// Calls the body with each setting on each instruction set.
func forEachISA<Settings: Sequence>(and settings: Settings, _ body: (dsk_isa, Settings.Element) throws -> Void) rethrows {
    try forEachISA { isa in
        for setting in settings { try body(isa, setting) }
    }
}

/// Runs the body under other limits, with the tests' number of threads allowed on every machine.
func withLimits<Result>(parallelElements: Int, streamingBytes: Int = .max, _ body: () throws -> Result) rethrows -> Result {
    let limits = dsk_get_limits()
    let threadCount = OpenMP.threadCount
    dsk_set_limits(dsk_limits(parallel_elements: parallelElements, streaming_bytes: streamingBytes))
    OpenMP.threadCount = 8
    defer {
        dsk_set_limits(limits)
        OpenMP.threadCount = threadCount
    }
    return try body()
}

/// The OpenMP runtime that the core has bound, set behind the core's back: `max_threads` never exceeds the runtime's own number, so
/// a machine with two cores would otherwise test two chunks at most.
enum OpenMP {
    /// The number of threads in a parallel region of the calling thread.
    static var threadCount: Int {
        get { Int(dsk_default_thread_count()) }
        set {
            typealias SetThreadCount = @convention(c) (Int32) -> Void
            for setter in setters { unsafeBitCast(setter, to: SetThreadCount.self)(Int32(newValue)) }
        }
    }

    /// Runs the body on the runtime's own threads, once for each index; without a runtime, on the caller's.
    static func parallel(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
        typealias Body = @convention(c) (UnsafeMutableRawPointer?) -> Void
        typealias Parallel = @convention(c) (Body, UnsafeMutableRawPointer, UInt32, UInt32) -> Void
        guard let entry = addresses(of: "GOMP_parallel").first else { return (0..<count).forEach(body) }
        let tickets = Tickets(count: count, body: body)
        unsafeBitCast(entry, to: Parallel.self)(
            { Unmanaged<Tickets>.fromOpaque($0!).takeUnretainedValue().work() }, Unmanaged.passUnretained(tickets).toOpaque(),
            UInt32(count), 0)
        tickets.work()  // a runtime may give fewer threads than were asked for
    }

    private final class Tickets: @unchecked Sendable {
        private let lock = NSLock()
        private var remaining: Range<Int>
        private let body: @Sendable (Int) -> Void

        init(count: Int, body: @escaping @Sendable (Int) -> Void) {
            remaining = 0..<count
            self.body = body
        }

        func work() {
            while let index = lock.withLock({ remaining.popFirst() }) { body(index) }
        }
    }

    private static let setters = addresses(of: "omp_set_num_threads")

    /// A function's addresses in all of the process's runtimes, beginning with the one the core has bound.
    private static func addresses(of name: String) -> [UInt] {
        _ = dsk_runtime_description()  // binds the runtime
        let libraries = ["libomp.so.5", "libgomp.so.1", "libomp.so", "libiomp5.so", "libomp.dylib"]
        #if canImport(Darwin)
            let everywhere = UnsafeMutableRawPointer(bitPattern: -2)
        #else
            let everywhere: UnsafeMutableRawPointer? = nil
        #endif
        let loaded = libraries.compactMap { dlopen($0, RTLD_LAZY | RTLD_NOLOAD) }
        defer { loaded.forEach { dlclose($0) } }
        return ([everywhere] + loaded).compactMap { dlsym($0, name) }.map { UInt(bitPattern: $0) }
    }
}

/// Numbers of threads that must all give the same results; 0 is the runtime's choice.
let threadCounts: [UInt32] = [0, 1, 2, 3, 7]

// SPDX-License-Identifier: Apache-2.0

/// Memory for a tensor with transferable ownership: a model writes its output here, and a step may keep it instead of copying it.
///
/// ```swift
/// var output = try TensorBuffer<Float>(count: sample.count)
/// while let timestep = session.timestep {
///     output.withMutableSpan { model(sample, timestep, into: &$0) }
///     try session.step(consuming: &output, sample: &sample)
/// }
/// ```
public struct TensorBuffer<Element: TensorElement>: ~Copyable, @unchecked Sendable {
    // Unchecked, because the memory has one owner.

    /// The number of elements.
    public let count: Int
    @usableFromInline var address: UnsafeMutableRawPointer

    /// Makes a buffer of zeros.
    ///
    /// - Throws: `outOfMemory`, `invalidValue` for a negative count.
    public init(count: Int) throws(SchedulerError) {
        try require("count", count, "at least 0", count >= 0)
        address = try TensorMemory.allocate(elementCount: count, elementSize: MemoryLayout<Element>.stride)
        self.count = count
        address.initializeMemory(as: UInt8.self, repeating: 0, count: count * MemoryLayout<Element>.stride)
    }

    deinit { TensorMemory.free(address) }

    /// Calls the body with the elements.
    ///
    /// - Throws: what the body throws.
    @inlinable
    public func withSpan<Result, Failure: Error>(_ body: (Span<Element>) throws(Failure) -> Result) throws(Failure) -> Result {
        let elements = UnsafeBufferPointer(start: address.assumingMemoryBound(to: Element.self), count: count)
        return try body(elements.span)
    }

    /// Calls the body with the elements, for changing them.
    ///
    /// - Throws: what the body throws. The elements stay as the body has left them.
    @inlinable
    public mutating func withMutableSpan<Result, Failure: Error>(
        _ body: (inout MutableSpan<Element>) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let elements = UnsafeMutableBufferPointer(start: address.assumingMemoryBound(to: Element.self), count: count)
        var span = elements.mutableSpan
        return try body(&span)
    }
}

// SPDX-License-Identifier: Apache-2.0

// Arrays lend their elements by these functions, not by `span`: Swift 6.3's optimiser overlooks that a generic function reads an array
// through its `span`, and drops the stores of a caller's array literal before the call.

extension Array {
    /// Calls the body with the elements.
    @inlinable
    @inline(__always)
    func withSpan<Result, Failure: Error>(_ body: (Span<Element>) throws(Failure) -> Result) throws(Failure) -> Result {
        try withUnsafeBufferPointer { (elements) throws(Failure) in try body(Span(_unsafeElements: elements)) }
    }
}

extension Optional {
    /// Calls the body with the elements of an array, if there is one.
    @inlinable
    @inline(__always)
    func withSpan<Element, Result, Failure: Error>(
        _ body: (Span<Element>?) throws(Failure) -> Result
    ) throws(Failure) -> Result where Wrapped == [Element] {
        guard let array = self else { return try body(nil) }
        return try array.withSpan { (span) throws(Failure) in try body(span) }
    }
}

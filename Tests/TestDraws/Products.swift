// SPDX-License-Identifier: Apache-2.0

/// Every pair of elements, in the order of two nested loops.
public func product<A: Sequence, B: Collection>(_ a: A, _ b: B) -> [(A.Element, B.Element)] {
    a.flatMap { first in b.map { (first, $0) } }
}

/// Every triple of elements, in the order of three nested loops.
public func product<A: Sequence, B: Collection, C: Collection>(_ a: A, _ b: B, _ c: C) -> [(A.Element, B.Element, C.Element)] {
    a.flatMap { first in product(b, c).map { (first, $0.0, $0.1) } }
}

// SPDX-License-Identifier: Apache-2.0

/// Rescales guidance so that it doesn't change the picture's contrast (Lin et al. 2023, arXiv:2305.08891, section 3.4).
///
/// A guided output e = e_u + g (e_c − e_u) has a larger standard deviation than the conditional output e_c, and pictures are
/// overexposed if the terminal signal-to-noise ratio is zero. This function scales e back, and mixes the two by φ:
///
///     e ← φ e σ(e_c)/σ(e) + (1 − φ) e
///
/// with the standard deviations σ of each batch item. diffusers' function of this name is the reference.
///
/// - Parameters:
///   - guided: e, changed in place.
///   - conditional: e_c, with as many elements as e.
///   - guidanceRescale: φ in [0, 1]; the paper uses 0.7.
///   - batchSize: the number of batch items.
/// - Throws: `wrongElementCount`, `invalidValue`; nothing has changed then.
/// - Complexity: O(elements), one pass to measure and one to scale. An item with a constant e stays unchanged.
public func rescaleNoiseCFG<Element: TensorElement>(
    _ guided: inout [Element], conditional: [Element], guidanceRescale: Double, batchSize: Int = 1
) throws(SchedulerError) {
    try require("guidanceRescale", guidanceRescale, "from 0 to 1", (0...1).contains(guidanceRescale))
    guard guided.count == conditional.count else {
        throw .wrongElementCount(argument: "conditional", count: conditional.count, expected: "\(guided.count), like guided")
    }
    guard batchSize >= 1, guided.count % batchSize == 0 else {
        throw .wrongElementCount(argument: "guided", count: guided.count, expected: "a multiple of the batch size \(batchSize)")
    }
    let factors = try Kernels.moments(guided, conditional, batchSize: batchSize).map { item in
        guidanceFactor(guidedVariance: item.varianceA, conditionalVariance: item.varianceB, guidanceRescale: guidanceRescale)
    }
    try Kernels.scale(&guided, by: factors)
}

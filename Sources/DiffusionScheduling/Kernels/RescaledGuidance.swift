// SPDX-License-Identifier: Apache-2.0

extension Guidance {
    /// Rescales a guided output that was computed elsewhere, so that guidance doesn't change the picture's contrast
    /// (Lin et al. 2023, arXiv:2305.08891, section 3.4).
    ///
    ///     e ← φ e σ(e_c)/σ(e) + (1 − φ) e
    ///
    /// with φ = ``rescale`` and the standard deviations σ of each batch item; ``scale`` isn't read. The reference is diffusers'
    /// `rescale_noise_cfg`.
    ///
    /// - Parameters:
    ///   - guided: e, changed in place.
    ///   - conditional: e_c, with as many elements as e.
    ///   - batchSize: the number of batch items.
    /// - Throws: `wrongElementCount`, `invalidValue`; nothing has changed then.
    /// - Complexity: O(elements), one pass to measure and one to scale. An item with a constant e stays unchanged.
    public func rescale<Element: TensorElement>(
        _ guided: inout [Element], conditional: [Element], batchSize: Int = 1
    ) throws(SchedulerError) {
        try validate()
        guard guided.count == conditional.count else {
            throw .wrongElementCount(argument: "conditional", count: conditional.count, expected: "\(guided.count), like guided")
        }
        guard batchSize >= 1, guided.count % batchSize == 0 else {
            throw .wrongElementCount(argument: "guided", count: guided.count, expected: "a multiple of the batch size \(batchSize)")
        }
        let factors = try Kernels.moments(guided, conditional, batchSize: batchSize).map { item in
            factor(guidedVariance: item.varianceA, conditionalVariance: item.varianceB)
        }
        try Kernels.scale(&guided, by: factors)
    }
}

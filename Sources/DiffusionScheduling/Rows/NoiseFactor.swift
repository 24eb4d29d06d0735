// SPDX-License-Identifier: Apache-2.0

/// The factor of each element of a row's noise z, where the model predicts the noise's variance v besides its output: Nichol and
/// Dhariwal 2021, arXiv:2102.09672, section 3.1.
public enum NoiseFactor: Sendable, Hashable {
    /// 1; the model predicts no variance, or the row has no use for it.
    case none
    /// √v, where the model predicts the variance itself. A negative one counts as 0.
    case root
    /// exp(offset + slope v), where the model predicts a place between the logarithms of two variances.
    case exponential(offset: Double, slope: Double)

    var isFinite: Bool {
        if case .exponential(let offset, let slope) = self { offset.isFinite && slope.isFinite } else { true }
    }
}

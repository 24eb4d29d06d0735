// SPDX-License-Identifier: Apache-2.0

/// A variable u in which model outputs are interpolated, a function of the ratio ρ of noise to signal.
public enum InterpolationVariable: Sendable {
    /// u = ln ρ
    case logRatio
    /// u = ρ
    case ratio
    /// u = ρ/(1 + ρ): the time of flow matching.
    case noiseShare
    /// u = t: the time of a training.
    case time(TrainingTime)

    /// u at a, less u at b.
    func difference(_ a: NoiseLevel, _ b: NoiseLevel) -> Double {
        switch self {
        case .logRatio: logarithmOfRatio(a.noiseToSignal, b.noiseToSignal)
        case .ratio: a.noiseToSignal - b.noiseToSignal
        case .noiseShare: a.sigma - b.sigma
        case .time(let time):
            time.time(atLogarithm: logarithm(a.noiseToSignal)) - time.time(atLogarithm: logarithm(b.noiseToSignal))
        }
    }

    /// Calls a function with the nodes and weights of ∫ f(u) dρ from s to t, where f is a polynomial of degree 3 at most.
    ///
    /// The rule of Gauss and Legendre with 8 nodes, in x = ln(ρ/ρ_s) with dρ = ρ_s eˣ dx, is exact to 10⁻¹⁶ on pieces of length ½
    /// on which u is smooth. Values below x = −50 contribute nothing in float64.
    ///
    /// - Parameter body: takes u at a node, less u at s, and the node's weight.
    func forEachQuadratureNode(from s: NoiseLevel, to t: NoiseLevel, _ body: (_ offset: Double, _ weight: Double) -> Void) {
        let start = logarithm(s.noiseToSignal), end = max(logarithmOfRatio(t.noiseToSignal, s.noiseToSignal), -50)
        var pieces = [0.0]
        if case .time(let time) = self {
            let knots = time.knots(between: start + min(end, 0), and: start + max(end, 0)).map { $0 - start }
            pieces += end < 0 ? knots.reversed() : knots
        }
        pieces.append(end)
        let startTime: Double = if case .time(let time) = self { time.time(atLogarithm: start) } else { 0 }
        for (from, to) in zip(pieces, pieces.dropFirst()) {
            let count = max((abs(to - from) * 2).rounded(.up), 1), half = (to - from) / (2 * count)
            for piece in 0..<Int(count) {
                let middle = from + Double(2 * piece + 1) * half
                for (node, weight) in Self.gaussLegendre {
                    let x = middle + half * node
                    let offset =
                        switch self {
                        case .logRatio: x
                        case .ratio: s.noiseToSignal * exponentialMinusOne(x)
                        case .noiseShare: share(x, from: s.sigma)
                        case .time(let time): time.time(atLogarithm: start + x) - startTime
                        }
                    body(offset, half * weight * s.noiseToSignal * exponential(x))
                }
            }
        }
    }

    /// ρ/(1 + ρ) at ln(ρ/ρ_s) = x, less the share ς at s.
    private func share(_ x: Double, from sigma: Double) -> Double {
        let growth = exponentialMinusOne(x)
        return sigma * (1 - sigma) * growth / (1 + sigma * growth)
    }

    /// The nodes on [−1, 1] and their weights. Both nodes of a pair have one weight.
    private static let gaussLegendre = [
        (0.18343464249564980, 0.36268378337836198), (0.52553240991632899, 0.31370664587788729),
        (0.79666647741362674, 0.22238103445337447), (0.96028985649753623, 0.10122853629037626),
    ].flatMap { node, weight in [(-node, weight), (node, weight)] }
}

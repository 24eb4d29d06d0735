// SPDX-License-Identifier: Apache-2.0

import CCairo

/// Lines over a linear or logarithmic x axis and a logarithmic y axis.
public struct LinePlot {
    public struct Line {
        /// Lines of one series share a colour.
        public var series: Int
        public var isDashed: Bool
        /// The text at the line's end.
        public var label: String
        public var points: [(x: Double, y: Double)]

        public init(series: Int, isDashed: Bool = false, label: String = "", points: [(x: Double, y: Double)]) {
            (self.series, self.isDashed, self.label, self.points) = (series, isDashed, label, points)
        }

        fileprivate var color: Color { Color.series[series % Color.series.count] }
    }

    public enum Scale { case linear, logarithmic }

    /// A horizontal arrow between two points of the same height.
    public struct Arrow {
        public var label: String
        public var y, fromX, toX: Double

        public init(label: String, y: Double, fromX: Double, toX: Double) {
            (self.label, self.y, self.fromX, self.toX) = (label, y, fromX, toX)
        }
    }

    public var title, xLabel, yLabel: String
    public var xScale: Scale
    public var lines: [Line]
    public var arrows: [Arrow]

    public init(
        title: String, xLabel: String, yLabel: String, xScale: Scale = .logarithmic, lines: [Line], arrows: [Arrow] = []
    ) {
        (self.title, self.xLabel, self.yLabel, self.xScale) = (title, xLabel, yLabel, xScale)
        (self.lines, self.arrows) = (lines, arrows)
    }

    public func draw() -> Canvas {
        let labelWidth = lines.map { Canvas.width(of: $0.label, bold: true) }.max() ?? 0
        let canvas = Canvas(width: max(900, Int(800 + Self.labelGap + labelWidth)), height: 640)
        let xAxis = Axis(xScale, values: lines.flatMap { $0.points.map(\.x) }, from: 100, to: 800)
        let yAxis = Axis(.logarithmic, values: lines.flatMap { $0.points.map(\.y) }, from: 570, to: 60)

        canvas.text(title, at: Point(x: xAxis.from, y: 30), size: 17, bold: true)
        canvas.text(xLabel, at: Point(x: (xAxis.from + xAxis.to) / 2, y: 618), align: .center)
        canvas.text(yLabel, at: Point(x: 26, y: (yAxis.from + yAxis.to) / 2), align: .center, upwards: true)
        for tick in xAxis.ticks {
            canvas.line([Point(x: xAxis[tick], y: yAxis.from), Point(x: xAxis[tick], y: yAxis.to)], .grid)
            canvas.text(brief(tick), at: Point(x: xAxis[tick], y: yAxis.from + 18), size: 13, align: .center)
        }
        for tick in yAxis.ticks {
            canvas.line([Point(x: xAxis.from, y: yAxis[tick]), Point(x: xAxis.to, y: yAxis[tick])], .grid)
            canvas.text(brief(tick), at: Point(x: xAxis.from - 8, y: yAxis[tick]), size: 13, align: .right)
        }
        canvas.line(
            [Point(x: xAxis.from, y: yAxis.to), Point(x: xAxis.from, y: yAxis.from), Point(x: xAxis.to, y: yAxis.from)], .text)

        for arrow in arrows { draw(arrow, on: canvas, xAxis, yAxis) }
        for line in lines {
            let points = line.points.map { Point(x: xAxis[$0.x], y: yAxis[$0.y]) }
            canvas.line(points, line.color, width: line.isDashed ? 1.5 : 2.5, dashed: line.isDashed)
            for point in points { canvas.disc(at: point, radius: line.isDashed ? 2.5 : 4.5, line.color) }
        }
        let labelled = lines.filter { !$0.label.isEmpty && !$0.points.isEmpty }
        let ends = labelled.map { $0.points[$0.points.count - 1] }
        for (line, (end, y)) in zip(labelled, zip(ends, spread(ends.map { yAxis[$0.y] }, by: 19))) {
            canvas.text(line.label, at: Point(x: xAxis[end.x] + Self.labelGap, y: y), line.color, bold: true)
        }
        return canvas
    }

    private func draw(_ arrow: Arrow, on canvas: Canvas, _ xAxis: Axis, _ yAxis: Axis) {
        let (y, start, end) = (yAxis[arrow.y], xAxis[arrow.fromX], xAxis[arrow.toX])
        let back = start < end ? -7.0 : 7.0
        canvas.line([Point(x: start, y: y), Point(x: end, y: y)], .faint)
        canvas.line([Point(x: end + back, y: y - 4), Point(x: end, y: y), Point(x: end + back, y: y + 4)], .faint)
        canvas.line([Point(x: end, y: y), Point(x: end, y: yAxis.from)], .faint)
        canvas.text(arrow.label, at: Point(x: end + 6, y: yAxis.from - 12), size: 13, .faint)
    }

    /// The gap between a line and its label.
    private static let labelGap = 12.0
}

/// A number with at most six digits: C's %g.
public func brief(_ value: Double) -> String {
    // The longest number takes a sign, six digits, a point and an exponent.
    var text = [CChar](repeating: 0, count: 16)
    _ = withVaList([value]) { vsnprintf(&text, text.count, "%g", $0) }
    return text.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
}

/// Maps values to pixels along one axis.
private struct Axis {
    let from, to: Double
    private let scale: LinePlot.Scale
    private let low, high: Double

    /// - Parameters:
    ///   - from: the pixel of the axis's low end
    ///   - to: the pixel of its high end
    init(_ scale: LinePlot.Scale, values: [Double], from: Double, to: Double) {
        let positions = values.filter { $0.isFinite && (scale == .linear || $0 > 0) }.map { scale == .linear ? $0 : log($0) }
        let (least, greatest) = (positions.min() ?? 0, positions.max() ?? log(10))
        // Labels must not touch the other axis, even if many decades make a factor narrow.
        let margin = max(scale == .linear ? 0.5 : log(1.15), 0.04 * (greatest - least))
        (self.scale, self.from, self.to) = (scale, from, to)
        (low, high) = (least - margin, greatest + margin)
    }

    subscript(value: Double) -> Double {
        let place = scale == .linear ? value : log(max(value, .leastNormalMagnitude))
        return from + min(max((place - low) / (high - low), 0), 1) * (to - from)
    }

    /// On a linear axis, at most ten multiples of 1, 2 or 5 times a power of ten; on a logarithmic axis, 1, 2 and 5 times the
    /// powers of ten, or over many decades the powers alone.
    var ticks: [Double] {
        if scale == .linear {
            let steps = (-3...6).flatMap { decade in [1, 2, 5].map { $0 * pow(10, Double(decade)) } }
            let step = steps.first { (high - low) / $0 <= 10 } ?? high - low
            return (Int(ceil(low / step))...Int(floor(high / step))).map { Double($0) * step }
        }
        let decades = Int(floor(low / log(10)))...Int(ceil(high / log(10)))
        let mantissas: [Double] = decades.count > 5 ? [1] : [1, 2, 5]
        return decades.flatMap { decade in mantissas.map { $0 * pow(10, Double(decade)) } }
            .filter { (low...high).contains(log($0)) }
    }
}

/// Moves positions apart to the given distance, in order, with the least mean square displacement.
private func spread(_ positions: [Double], by distance: Double) -> [Double] {
    let order = positions.indices.sorted { positions[$0] < positions[$1] }
    // Positions minus the distances before them must not fall; falling neighbours share their mean.
    var pools: [(sum: Double, count: Int)] = []
    for (rank, index) in order.enumerated() {
        pools.append((positions[index] - Double(rank) * distance, 1))
        while let last = pools.last, let before = pools.dropLast().last,
            before.sum / Double(before.count) > last.sum / Double(last.count)
        {
            pools.removeLast(2)
            pools.append((before.sum + last.sum, before.count + last.count))
        }
    }
    var result = positions
    let means = pools.flatMap { Array(repeating: $0.sum / Double($0.count), count: $0.count) }
    for (rank, index) in order.enumerated() { result[index] = means[rank] + Double(rank) * distance }
    return result
}

/// Samples in rows, one row a way of sampling, the same start noise along a column.
public struct SampleSheet {
    public struct Row {
        public var label: String
        public var remark: String
        /// Square images, −1 (paper) to 1 (ink).
        public var images: [[Float]]

        public init(label: String, remark: String, images: [[Float]]) {
            (self.label, self.remark, self.images) = (label, remark, images)
        }
    }

    public var title: String
    public var remarkTitle: String
    /// Rows that belong together; a gap separates the groups.
    public var groups: [[Row]]
    /// Pixels along an edge of an image.
    public var side: Int

    public init(title: String, remarkTitle: String, groups: [[Row]], side: Int) {
        (self.title, self.remarkTitle, self.groups, self.side) = (title, remarkTitle, groups, side)
    }

    public func draw() -> Canvas {
        let (tile, spacing, groupGap, margin) = (48.0, 12.0, 14.0, 20.0)
        let (labelWidth, remarkWidth, headHeight) = (170.0, 70.0, 64.0)
        let columns = groups.joined().map(\.images.count).max() ?? 0
        let rowCount = groups.joined().count

        let width = margin + labelWidth + Double(columns) * (tile + spacing) + remarkWidth + margin
        let height = headHeight + Double(rowCount) * (tile + spacing) + Double(max(groups.count - 1, 0)) * groupGap + margin
        let canvas = Canvas(width: Int(width), height: Int(height))
        canvas.text(title, at: Point(x: margin, y: 30), size: 17, bold: true)
        canvas.text(remarkTitle, at: Point(x: width - margin, y: headHeight - 14), size: 13, .faint, align: .right)

        var y = headHeight
        for group in groups {
            for row in group {
                let middle = y + tile / 2
                canvas.text(row.label, at: Point(x: margin, y: middle))
                canvas.text(row.remark, at: Point(x: width - margin, y: middle), .faint, align: .right)
                for (column, image) in row.images.enumerated() {
                    let x = margin + labelWidth + Double(column) * (tile + spacing)
                    canvas.image(image.map { (Double($0) + 1) / 2 }, side: side, x: x, y: y, size: tile)
                }
                y += tile + spacing
            }
            y += groupGap
        }
        return canvas
    }
}

// SPDX-License-Identifier: Apache-2.0

/// Small images in labelled rows, in one block of columns or in several side by side.
public struct SampleSheet {
    /// The part of a row in one block.
    public struct Cells {
        /// Square images, −1 (paper) to 1 (ink).
        public var images: [[Float]]
        /// The text behind the images.
        public var remark: String

        public init(images: [[Float]], remark: String = "") {
            (self.images, self.remark) = (images, remark)
        }
    }

    public struct Row {
        public var label: String
        /// The cells of the row, one for each block.
        public var cells: [Cells]

        public init(label: String, cells: [Cells]) {
            (self.label, self.cells) = (label, cells)
        }

        public init(label: String, remark: String = "", images: [[Float]]) {
            self.init(label: label, cells: [Cells(images: images, remark: remark)])
        }
    }

    public var title: String
    /// An explanation of the rows, a line each, below the title.
    public var notes: [String]
    /// Titles above the blocks, one each, or none at all.
    public var blockTitles: [String]
    /// The title above the remarks.
    public var remarkTitle: String
    /// Rows that belong together; a gap separates the groups.
    public var groups: [[Row]]
    /// Pixels along an edge of an image.
    public var side: Int

    public init(
        title: String, notes: [String] = [], blockTitles: [String] = [], remarkTitle: String, groups: [[Row]], side: Int
    ) {
        (self.title, self.notes, self.blockTitles) = (title, notes, blockTitles)
        (self.remarkTitle, self.groups, self.side) = (remarkTitle, groups, side)
    }

    public func draw() -> Canvas {
        let layout = Layout(self)
        let canvas = Canvas(width: Int(layout.width), height: Int(layout.height))
        canvas.text(title, at: Point(x: Layout.margin, y: 30), size: Layout.titleSize, bold: true)
        for (index, note) in notes.enumerated() {
            let y = 56 + Double(index) * Layout.noteHeight
            canvas.text(note, at: Point(x: Layout.margin, y: y), size: Layout.noteSize, .faint)
        }
        let headY = layout.top - 16
        for (title, block) in zip(blockTitles, layout.blocks) {
            canvas.text(title, at: Point(x: block.x, y: headY), bold: true)
        }
        for block in layout.blocks {
            canvas.text(remarkTitle, at: Point(x: block.end, y: headY), size: Layout.noteSize, .faint, align: .right)
        }

        var y = layout.top
        for group in groups {
            for row in group {
                draw(row, at: y, on: canvas, layout)
                y += Layout.pitch
            }
            y += Layout.groupGap
        }
        return canvas
    }

    private func draw(_ row: Row, at y: Double, on canvas: Canvas, _ layout: Layout) {
        let middle = y + Layout.tile / 2
        canvas.text(row.label, at: Point(x: Layout.margin, y: middle))
        for (cells, block) in zip(row.cells, layout.blocks) {
            canvas.text(cells.remark, at: Point(x: block.end, y: middle), .faint, align: .right)
            for (column, image) in cells.images.enumerated() {
                let x = block.x + Double(column) * Layout.pitch
                canvas.image(image.map { (Double($0) + 1) / 2 }, side: side, x: x, y: y, size: Layout.tile)
            }
        }
    }
}

/// Positions on a sheet.
private struct Layout {
    static let (tile, spacing, groupGap, margin) = (48.0, 12.0, 14.0, 20.0)
    static let (titleSize, noteSize, noteHeight) = (17.0, 13.0, 20.0)
    static let pitch = tile + spacing

    let width, height: Double
    /// The top edge of the first row.
    let top: Double
    /// The left edge of each block's images, and the right edge of its remarks.
    let blocks: [(x: Double, end: Double)]

    init(_ sheet: SampleSheet) {
        let rows = sheet.groups.flatMap { $0 }
        let labelWidth = rows.map { Canvas.width(of: $0.label) }.max() ?? 0
        let remarks = rows.flatMap { $0.cells.map(\.remark) }
        let remarkWidth = remarks.map { Canvas.width(of: $0) }.max() ?? 0

        var x = Self.margin + labelWidth + 16
        var blocks: [(x: Double, end: Double)] = []
        for block in 0..<(rows.map(\.cells.count).max() ?? 0) {
            let columns = rows.compactMap { $0.cells.indices.contains(block) ? $0.cells[block].images.count : nil }.max() ?? 0
            let end = x + Double(columns) * Self.pitch + 4 + remarkWidth
            blocks.append((x, end))
            x = end + 44
        }
        self.blocks = blocks

        let headings =
            [Canvas.width(of: sheet.title, size: Self.titleSize, bold: true)]
            + sheet.notes.map { Canvas.width(of: $0, size: Self.noteSize) }
        width = max(blocks.last?.end ?? 0, Self.margin + (headings.max() ?? 0)) + Self.margin
        top = (sheet.notes.isEmpty ? 64 : 84) + Double(sheet.notes.count) * Self.noteHeight
        height = top + Double(rows.count) * Self.pitch + Double(max(sheet.groups.count - 1, 0)) * Self.groupGap + Self.margin
    }
}

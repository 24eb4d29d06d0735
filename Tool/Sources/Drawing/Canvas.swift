// SPDX-License-Identifier: Apache-2.0

import CCairo

public struct DrawingError: Error, CustomStringConvertible {
    public let description: String
}

struct Color {
    var red, green, blue: Double

    static let paper = Color(gray: 1)
    static let text = Color(gray: 0.13)
    static let faint = Color(gray: 0.45)
    static let grid = Color(gray: 0.89)

    /// Okabe and Ito's palette, which colour-blind people can tell apart, but with brown for yellow, which is faint on paper.
    static let series = [
        Color(red: 0.0, green: 0.45, blue: 0.70), Color(red: 0.84, green: 0.37, blue: 0.0),
        Color(red: 0.0, green: 0.62, blue: 0.45), Color(red: 0.80, green: 0.47, blue: 0.65),
        Color(red: 0.90, green: 0.62, blue: 0.0), Color(red: 0.34, green: 0.71, blue: 0.91),
        Color(gray: 0.2), Color(red: 0.52, green: 0.32, blue: 0.13),
    ]

    init(red: Double, green: Double, blue: Double) { (self.red, self.green, self.blue) = (red, green, blue) }
    init(gray: Double) { self.init(red: gray, green: gray, blue: gray) }
}

struct Point {
    var x, y: Double
}

/// A recorded picture: cairo with Swift names. Lengths are in pixels, y grows downwards.
public final class Canvas {
    enum Alignment { case left, center, right }

    let width, height: Int
    private let surface: OpaquePointer
    private let context: OpaquePointer

    init(width: Int, height: Int) {
        (self.width, self.height) = (width, height)
        var extents = cairo_rectangle_t(x: 0, y: 0, width: Double(width), height: Double(height))
        surface = cairo_recording_surface_create(CAIRO_CONTENT_COLOR, &extents)
        context = cairo_create(surface)
        fill(x: 0, y: 0, width: Double(width), height: Double(height), .paper)
    }

    deinit {
        cairo_destroy(context)
        cairo_surface_destroy(surface)
    }

    public func writePNG(to path: String) throws {
        let image = cairo_image_surface_create(CAIRO_FORMAT_RGB24, Int32(width), Int32(height))
        defer { cairo_surface_destroy(image) }
        replay(on: image)
        try check(cairo_surface_write_to_png(image, path), path)
    }

    public func writeSVG(to path: String) throws {
        let file = cairo_svg_surface_create(path, Double(width), Double(height))
        defer { cairo_surface_destroy(file) }
        replay(on: file)
        cairo_surface_finish(file)
        try check(cairo_surface_status(file), path)
    }

    private func replay(on other: OpaquePointer?) {
        let context = cairo_create(other)
        defer { cairo_destroy(context) }
        cairo_set_source_surface(context, surface, 0, 0)
        cairo_paint(context)
    }

    private func check(_ status: cairo_status_t, _ path: String) throws {
        guard status == CAIRO_STATUS_SUCCESS else {
            throw DrawingError(description: "can't write \(path): \(String(cString: cairo_status_to_string(status)))")
        }
    }

    func fill(x: Double, y: Double, width: Double, height: Double, _ color: Color) {
        use(color)
        cairo_rectangle(context, x, y, width, height)
        cairo_fill(context)
    }

    func disc(at center: Point, radius: Double, _ color: Color) {
        use(color)
        cairo_arc(context, center.x, center.y, radius, 0, 2 * .pi)
        cairo_fill(context)
    }

    func line(_ points: [Point], _ color: Color, width: Double = 1, dashed: Bool = false) {
        use(color)
        cairo_set_line_width(context, width)
        cairo_set_line_join(context, CAIRO_LINE_JOIN_ROUND)
        if dashed { cairo_set_dash(context, [5, 4], 2, 0) }
        for (index, point) in points.enumerated() {
            if index == 0 { cairo_move_to(context, point.x, point.y) } else { cairo_line_to(context, point.x, point.y) }
        }
        cairo_stroke(context)
        cairo_set_dash(context, nil, 0, 0)
    }

    /// One line of text, centred on the point vertically.
    func text(
        _ text: String, at point: Point, size: Double = 15, _ color: Color = .text, align: Alignment = .left,
        bold: Bool = false, upwards: Bool = false
    ) {
        use(color)
        let width = setFont(size: size, bold: bold, measuring: text)
        let shift =
            switch align {
            case .left: 0.0
            case .center: -width / 2
            case .right: -width
            }
        cairo_save(context)
        cairo_translate(context, point.x, point.y)
        if upwards { cairo_rotate(context, -.pi / 2) }
        // A third of the size is about half the height of a digit, so baselines agree along a row of labels.
        cairo_move_to(context, shift, size * 0.36)
        cairo_show_text(context, text)
        cairo_restore(context)
    }

    /// The width of a line of text.
    static func width(of text: String, size: Double = 15, bold: Bool = false) -> Double {
        Canvas(width: 1, height: 1).setFont(size: size, bold: bold, measuring: text)
    }

    /// Chooses the font, and returns the width of a text in it.
    private func setFont(size: Double, bold: Bool, measuring text: String) -> Double {
        let weight = bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL
        cairo_select_font_face(context, "DejaVu Sans", CAIRO_FONT_SLANT_NORMAL, weight)
        cairo_set_font_size(context, size)
        var extents = cairo_text_extents_t()
        cairo_text_extents(context, text, &extents)
        return extents.x_advance
    }

    /// A grey image of `side` × `side` pixels (0 white … 1 black), enlarged smoothly to `size`.
    func image(_ darkness: [Double], side: Int, x: Double, y: Double, size: Double) {
        // A border of one paper pixel lets strokes at the edge fade instead of being cut.
        let source = cairo_image_surface_create(CAIRO_FORMAT_RGB24, Int32(side + 2), Int32(side + 2))
        defer { cairo_surface_destroy(source) }
        let stride = Int(cairo_image_surface_get_stride(source))
        guard let bytes = cairo_image_surface_get_data(source) else { return }
        for row in 0..<side + 2 {
            for column in 0..<side + 2 {
                let inside = (1...side).contains(row) && (1...side).contains(column)
                let ink = inside ? min(max(darkness[(row - 1) * side + column - 1], 0), 1) : 0
                for channel in 0..<3 { bytes[row * stride + 4 * column + channel] = UInt8((255 * (1 - ink)).rounded()) }
            }
        }
        cairo_surface_mark_dirty(source)

        cairo_save(context)
        cairo_translate(context, x, y)
        cairo_scale(context, size / Double(side), size / Double(side))
        cairo_set_source_surface(context, source, -1, -1)
        cairo_pattern_set_filter(cairo_get_source(context), CAIRO_FILTER_BILINEAR)
        cairo_rectangle(context, -1, -1, Double(side + 2), Double(side + 2))
        cairo_fill(context)
        cairo_restore(context)
    }

    private func use(_ color: Color) {
        cairo_set_source_rgb(context, color.red, color.green, color.blue)
    }
}

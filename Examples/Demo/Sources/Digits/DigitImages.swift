// SPDX-License-Identifier: Apache-2.0

import Foundation

/// The UCI handwritten digits: 1,797 images of 8×8 pixels (see Data/README.md).
public struct DigitImages: Sendable {
    public static let side = 8

    /// `[image, pixel]`, from −1 (paper) to 1 (ink).
    public let pixels: Matrix<Float>
    /// The digit that each image shows.
    public let labels: [Int]

    public init() throws {
        guard let file = Bundle.module.url(forResource: "digits", withExtension: "bin") else {
            throw CocoaError(.fileNoSuchFile)
        }
        let bytes = [UInt8](try Data(contentsOf: file))
        let pixelCount = Self.side * Self.side
        let imageCount = bytes.count / (pixelCount + 1)
        pixels = Matrix(
            rows: imageCount, columns: pixelCount,
            elements: bytes.prefix(imageCount * pixelCount).map { Float($0) / 8 - 1 })
        labels = bytes.suffix(imageCount).map(Int.init)
    }
    /// All images of a digit, one per row.
    public func images(of digit: Int) -> Matrix<Float> {
        let rows = labels.indices.filter { labels[$0] == digit }
        return Matrix(rows: rows.count, columns: pixels.columns, elements: rows.flatMap { Array(pixels.row($0)) })
    }

    /// The digit of the nearest image.
    public func nearestLabel(to image: [Float]) -> Int {
        var nearest = (distance: Float.infinity, label: 0)
        for index in labels.indices {
            let distance = zip(image, pixels.row(index)).reduce(Float(0)) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }
            if distance < nearest.distance { nearest = (distance, labels[index]) }
        }
        return nearest.label
    }
}

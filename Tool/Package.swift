// swift-tools-version: 6.3
// SPDX-License-Identifier: Apache-2.0

// The command-line tool is a separate package, so users of the library don't resolve its dependencies.
// It needs these Debian packages: libcairo2-dev (drawing, text, SVG and PNG), fonts-dejavu-core (the text's font), pkgconf (finds
// cairo for SwiftPM).

import PackageDescription

let package = Package(
    name: "Tool",
    platforms: [.macOS(.v26)],
    products: [
        .executable(name: "diffusion-scheduling", targets: ["diffusion-scheduling"]),
        .library(name: "Drawing", targets: ["Drawing"]),
    ],
    dependencies: [
        .package(name: "DiffusionScheduling", path: ".."),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    ],
    targets: [
        .systemLibrary(name: "CCairo", pkgConfig: "cairo", providers: [.apt(["libcairo2-dev"]), .brew(["cairo"])]),
        // The pictures of the tool and the demo.
        .target(name: "Drawing", dependencies: ["CCairo"]),
        .executableTarget(
            name: "diffusion-scheduling",
            dependencies: [
                "Drawing",
                .product(name: "DiffusionScheduling", package: "DiffusionScheduling"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "Sources/Tool"),
    ],
    swiftLanguageModes: [.v6]
)

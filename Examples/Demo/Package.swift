// swift-tools-version: 6.3
// SPDX-License-Identifier: Apache-2.0

// The demo is a separate package, so users of the library don't resolve its dependencies.
// It needs these Debian packages: libopenblas-dev (matrix products, eigenvalues), libcairo2-dev and fonts-dejavu-core (pictures),
// pkgconf (finds both libraries for SwiftPM).

import PackageDescription

let package = Package(
    name: "Demo",
    platforms: [.macOS(.v26)],
    products: [.library(name: "Digits", targets: ["Digits", "ExactModel"])],
    dependencies: [
        .package(name: "DiffusionScheduling", path: "../.."),
        .package(name: "Tool", path: "../../Tool"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    ],
    targets: [
        .systemLibrary(name: "COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"]), .brew(["openblas"])]),

        // The data, its exact denoiser and the distance between distributions; independent of schedulers.
        .target(
            name: "Digits",
            dependencies: ["COpenBLAS"],
            exclude: ["Data/README.md", "Data/make_digits.py"],
            resources: [.copy("Data/digits.bin")]),
        // The exact denoiser in the prediction types of the schedulers.
        .target(
            name: "ExactModel",
            dependencies: ["Digits", .product(name: "DiffusionScheduling", package: "DiffusionScheduling")]),
        .executableTarget(
            name: "demo",
            dependencies: [
                "Digits", "ExactModel",
                .product(name: "Drawing", package: "Tool"),
                .product(name: "DiffusionScheduling", package: "DiffusionScheduling"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            resources: [.copy("scheduler_config.json")]),
        // Many requests on one model: make server.
        .executableTarget(
            name: "server",
            dependencies: [
                "Digits",
                .product(name: "DiffusionScheduling", package: "DiffusionScheduling"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]),
    ],
    swiftLanguageModes: [.v6]
)

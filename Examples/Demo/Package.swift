// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0

// The demo is a package of its own, so that no user of the library resolves its dependencies.
// Debian packages it needs: libcairo2-dev (drawing, text, PNG), fonts-dejavu-core (the text's font),
// libopenblas-dev (matrix products, eigenvalues), pkgconf (finds both for SwiftPM).

import PackageDescription

let package = Package(
    name: "Demo",
    platforms: [.macOS(.v26)],
    dependencies: [
        .package(name: "DiffusionScheduling", path: "../.."),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    ],
    targets: [
        .systemLibrary(name: "CCairo", pkgConfig: "cairo", providers: [.apt(["libcairo2-dev"]), .brew(["cairo"])]),
        .systemLibrary(name: "COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"]), .brew(["openblas"])]),

        // The data, its exact denoiser and the distance between distributions. Knows nothing of schedulers.
        .target(
            name: "Digits",
            dependencies: ["COpenBLAS"],
            exclude: ["Data/README.md", "Data/make_digits.py"],
            resources: [.copy("Data/digits.bin")]),
        // The pictures.
        .target(name: "Drawing", dependencies: ["CCairo"]),
        .executableTarget(
            name: "demo",
            dependencies: [
                "Digits", "Drawing",
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

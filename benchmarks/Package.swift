// swift-tools-version: 6.3
// SPDX-License-Identifier: Apache-2.0

// The benchmarks are a separate package, so users of the library don't resolve their dependencies.

import PackageDescription

let package = Package(
    name: "Benchmarks",
    platforms: [.macOS(.v26)],
    dependencies: [
        .package(name: "DiffusionScheduling", path: ".."),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    ],
    targets: [
        // Instruments of the measurements, independent of schedulers: bare loops for comparison, a compute loop, a count of
        // allocations.
        .target(name: "CBareLoop"),
        .executableTarget(
            name: "bench",
            dependencies: [
                "CBareLoop",
                .product(name: "DiffusionScheduling", package: "DiffusionScheduling"),
                .product(name: "CKernels", package: "DiffusionScheduling"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .c11
)

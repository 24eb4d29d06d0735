// swift-tools-version: 6.3
// SPDX-License-Identifier: Apache-2.0

// OpenVINO's headers come from its wheel, which `make engine` puts into out/openvino. The library itself is opened at run time.
// It needs the demo's Debian packages, for the digits and the pictures.

import PackageDescription

let headers = "\(Context.packageDirectory)/../../out/openvino/wheel/include"

let package = Package(
    name: "Engine",
    platforms: [.macOS(.v26)],
    dependencies: [
        .package(name: "DiffusionScheduling", path: "../.."),
        .package(name: "Tool", path: "../../Tool"),
        .package(name: "Demo", path: "../Demo"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    ],
    targets: [
        .target(name: "COpenVINO", cSettings: [.unsafeFlags(["-I", headers])]),
        .executableTarget(
            name: "engine",
            dependencies: [
                "COpenVINO",
                .product(name: "Digits", package: "Demo"),
                .product(name: "Drawing", package: "Tool"),
                .product(name: "DiffusionScheduling", package: "DiffusionScheduling"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: [.unsafeFlags(["-Xcc", "-I\(headers)"])]),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .c11
)

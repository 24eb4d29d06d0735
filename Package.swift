// swift-tools-version: 6.3
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

let package = Package(
    name: "DiffusionScheduling",
    // Written for Apple's platforms (Span needs these versions), tested on Linux.
    platforms: [.macOS(.v26), .iOS(.v26), .tvOS(.v26), .watchOS(.v26), .visionOS(.v26)],
    products: [
        .library(name: "DiffusionScheduling", targets: ["DiffusionScheduling"]),
        .library(name: "CKernels", targets: ["CKernels"]),
        .library(name: "DiffusionSchedulingC", type: .dynamic, targets: ["DiffusionSchedulingC"]),
    ],
    targets: [
        .target(name: "CKernels"),
        .target(name: "DeviceKernels"),
        .target(name: "DiffusionScheduling", dependencies: ["CKernels", "DeviceKernels"]),
        .target(name: "CDiffusionScheduling"),
        .target(name: "DiffusionSchedulingC", dependencies: ["CDiffusionScheduling", "CKernels", "DiffusionScheduling"]),
        .target(name: "CTestSupport", dependencies: ["CKernels"], path: "Tests/CTestSupport"),
        .target(name: "TestDraws", path: "Tests/TestDraws"),
        .testTarget(name: "CKernelsTests", dependencies: ["CKernels", "CTestSupport", "TestDraws"]),
        .testTarget(
            name: "DiffusionSchedulingTests",
            dependencies: ["DiffusionScheduling", "CKernels", "CTestSupport", "DeviceKernels", "TestDraws"]),
        .testTarget(
            name: "DiffusionSchedulingCTests",
            dependencies: ["CDiffusionScheduling", "DiffusionScheduling", "DiffusionSchedulingC"]),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .c11
)

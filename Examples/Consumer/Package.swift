// swift-tools-version: 6.3
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

// A package that depends on DiffusionScheduling by version, like an inference engine's.
// Tests/check-consumer.sh makes a tagged repository of this checkout and passes its address here.
let repository = Context.environment["DIFFUSION_SCHEDULING_REPOSITORY"] ?? "../../../DiffusionScheduling"

let package = Package(
    name: "Consumer",
    platforms: [.macOS(.v26)],
    dependencies: [.package(url: repository, from: "0.1.0")],
    targets: [
        .executableTarget(
            name: "consumer",
            dependencies: [
                .product(name: "DiffusionScheduling", package: "DiffusionScheduling"),
                .product(name: "CKernels", package: "DiffusionScheduling"),
            ])
    ],
    swiftLanguageModes: [.v6]
)

// swift-tools-version: 6.3
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

// A separate package, invisible to users of the library. run.sh builds its products with coverage and sanitizers.
let package = Package(
    name: "Fuzz",
    products: [.library(name: "PlanTarget", type: .dynamic, targets: ["PlanTarget"])],
    dependencies: [.package(name: "DiffusionScheduling", path: "..")],
    targets: [
        .target(name: "PlanTarget", dependencies: [.product(name: "DiffusionScheduling", package: "DiffusionScheduling")])
    ],
    swiftLanguageModes: [.v6]
)

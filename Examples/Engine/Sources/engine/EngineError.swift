// SPDX-License-Identifier: Apache-2.0

/// A sentence about the model folder, OpenVINO, or an argument.
struct EngineError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling

/// The element types of a step: one for the model outputs, one for all other tensors.
struct TensorTypes: Hashable {
    let element: ElementType
    let modelOutput: ElementType

    init(_ element: ElementType, modelOutput: ElementType? = nil) {
        self.element = element
        self.modelOutput = modelOutput ?? element
    }

    var isMixed: Bool { element != modelOutput }

    var name: String { isMixed ? "\(modelOutput.rawValue) in \(element.rawValue)" : element.rawValue }

    /// The measured types, the usual one first.
    static let single: [TensorTypes] = {
        #if os(macOS) && arch(x86_64)
            [.float32, .bfloat16, .float64].map { TensorTypes($0) }
        #else
            [.float32, .float16, .bfloat16, .float64].map { TensorTypes($0) }
        #endif
    }()

    /// Model outputs in half types with a float32 sample, as in engines.
    static let mixed: [TensorTypes] = {
        #if os(macOS) && arch(x86_64)
            [.bfloat16].map { TensorTypes(.float32, modelOutput: $0) }
        #else
            [.float16, .bfloat16].map { TensorTypes(.float32, modelOutput: $0) }
        #endif
    }()
}

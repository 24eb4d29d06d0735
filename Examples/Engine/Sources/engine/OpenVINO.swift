// SPDX-License-Identifier: Apache-2.0

import COpenVINO
import Foundation

/// OpenVINO's library, opened at run time, and its core.
final class OpenVINO {
    /// The versions that the engine is written for: another major version may have other functions under these names.
    static let majorVersion = "2026"

    let functions: openvino_functions
    /// Such as 2026.4.1.
    let version: String
    fileprivate let core: OpaquePointer

    /// - Parameter folder: the folder with libopenvino_c, `openvino/libs` in the wheel.
    init(folder: String) throws {
        let advice = "make engine installs it; --openvino names the folder"
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        guard let name = names.filter({ $0.hasPrefix("libopenvino_c.") }).min() else {
            throw EngineError("OpenVINO's library, libopenvino_c, isn't in \(folder): \(advice)")
        }
        var functions = openvino_functions()
        let complaint = openvino_open("\(folder)/\(name)", &functions).map { String(cString: $0) }
        var found = ov_version_t()
        if functions.ov_get_openvino_version != nil, functions.ov_get_openvino_version(&found) == OK {
            version = found.buildNumber.map { String(cString: $0).prefix { $0 != "-" } }.map(String.init) ?? "without a number"
            if functions.ov_version_free != nil { functions.ov_version_free(&found) }
            guard version.hasPrefix("\(Self.majorVersion).") else {
                throw EngineError("OpenVINO in \(folder) is \(version), but must be \(Self.majorVersion)")
            }
        } else {
            version = "unknown"
        }
        if let complaint { throw EngineError("OpenVINO's library can't be opened: \(complaint)") }
        self.functions = functions
        var core: OpaquePointer?
        guard functions.ov_core_create(&core) == OK, let core else {
            throw EngineError("OpenVINO can't be started: \(Self.lastMessage(functions))")
        }
        self.core = core
    }

    deinit { functions.ov_core_free(core) }

    func check(_ status: ov_status_e, _ activity: @autoclosure () -> String) throws {
        guard status == OK else { throw EngineError("\(activity()): \(Self.lastMessage(functions))") }
    }

    /// OpenVINO's own words, without the places in its sources.
    private static func lastMessage(_ functions: openvino_functions) -> String {
        let text = functions.ov_get_last_err_msg().map { String(cString: $0) } ?? ""
        let lines = text.split(separator: "\n").map { $0.trimmingCharacters(in: .whitespaces) }
        let telling = lines.filter { !$0.isEmpty && !$0.hasPrefix("Exception from ") && !$0.hasPrefix("Check '") }
        return (telling.isEmpty ? lines : telling).prefix(2).joined(separator: " ").trimmingCharacters(in: .punctuationCharacters)
    }
}

/// A denoiser, compiled for a number of rows: inputs `sample`, `timestep` and `class_labels`, and one output.
///
/// The memory is OpenVINO's. A scheduler's steps read the output and write the next input there, without a copy between them.
final class Network {
    let sample: UnsafeMutableBufferPointer<Float>
    let timesteps: UnsafeMutableBufferPointer<Float>
    let classLabels: UnsafeMutableBufferPointer<Int64>
    let output: UnsafeMutableBufferPointer<Float>

    private let openVINO: OpenVINO
    private let compiledModel: OpaquePointer
    private let request: OpaquePointer
    /// The tensors whose memory the buffers are.
    private let tensors: [OpaquePointer]

    init(_ openVINO: OpenVINO, _ folder: ModelFolder, rows: Int) throws {
        let functions = openVINO.functions, path = folder.networkPath
        var model: OpaquePointer?, compiledModel: OpaquePointer?, request: OpaquePointer?
        try openVINO.check(functions.ov_core_read_model(openVINO.core, path, nil, &model), "\(path) can't be read")
        defer { functions.ov_model_free(model) }

        // A network of a fixed size runs faster than one that is ready for any.
        let shapes = [
            ("sample", F32, [rows, folder.channels, folder.side, folder.side]), ("timestep", F32, [rows]),
            ("class_labels", I64, [rows]),
        ]
        var partialShapes = try shapes.map { name, type, sizes in
            var port: OpaquePointer?, actual = DYNAMIC, shape = ov_partial_shape_t()
            try openVINO.check(functions.ov_model_const_input_by_name(model, name, &port), "\(path) has no input \(name)")
            defer { functions.ov_output_const_port_free(port) }
            try openVINO.check(functions.ov_port_get_element_type(port, &actual), "\(path): \(name)")
            guard actual == type else {
                throw EngineError("\(path): the elements of \(name) must be \(type == F32 ? "float32" : "int64")")
            }
            let sizes = sizes.map(Int64.init)
            try openVINO.check(functions.ov_partial_shape_create_static(Int64(sizes.count), sizes, &shape), "\(path): \(name)")
            return shape
        }
        defer { for index in partialShapes.indices { functions.ov_partial_shape_free(&partialShapes[index]) } }
        let strings = CStrings()
        var names = shapes.map { strings[$0.0] }
        try openVINO.check(
            functions.ov_model_reshape(model, &names, partialShapes, names.count),
            "\(path) doesn't take samples of \(folder.channels)×\(folder.side)×\(folder.side), as its config.json says")

        // Float32 on every processor. OpenVINO would take bfloat16 where the processor has it.
        let properties = [
            ov_property_t(key: strings["INFERENCE_PRECISION_HINT"], value: strings["f32"]),
            ov_property_t(key: strings["PERFORMANCE_HINT"], value: strings["LATENCY"]),
        ]
        try openVINO.check(
            functions.ov_core_compile_model_props(openVINO.core, model, "CPU", properties.count, properties, &compiledModel),
            "\(path) can't be compiled")
        do {
            try openVINO.check(
                functions.ov_compiled_model_create_infer_request(compiledModel, &request), "\(path) can't be run")
        } catch {
            functions.ov_compiled_model_free(compiledModel)
            throw error
        }
        (self.openVINO, self.compiledModel, self.request) = (openVINO, compiledModel!, request!)

        var tensors: [OpaquePointer] = []
        do {
            func memory<Element>(
                of name: String, _ type: Element.Type, count: Int, _ status: (inout OpaquePointer?) -> ov_status_e
            ) throws -> UnsafeMutableBufferPointer<Element> {
                var tensor: OpaquePointer?, address: UnsafeMutableRawPointer?, size = 0
                try openVINO.check(status(&tensor), "\(path): \(name)")
                tensors.append(tensor!)
                try openVINO.check(functions.ov_tensor_get_size(tensor, &size), "\(path): \(name)")
                try openVINO.check(functions.ov_tensor_data(tensor, &address), "\(path): \(name)")
                guard size == count, let address else {
                    throw EngineError("\(path): \(name) has \(size) elements for \(rows) samples, but must have \(count)")
                }
                return UnsafeMutableBufferPointer(start: address.bindMemory(to: type, capacity: size), count: size)
            }
            let count = rows * folder.elementCount
            sample = try memory(of: "sample", Float.self, count: count) {
                functions.ov_infer_request_get_tensor(request, "sample", &$0)
            }
            timesteps = try memory(of: "timestep", Float.self, count: rows) {
                functions.ov_infer_request_get_tensor(request, "timestep", &$0)
            }
            classLabels = try memory(of: "class_labels", Int64.self, count: rows) {
                functions.ov_infer_request_get_tensor(request, "class_labels", &$0)
            }
            output = try memory(of: "the output", Float.self, count: count) {
                functions.ov_infer_request_get_output_tensor_by_index(request, 0, &$0)
            }
        } catch {
            for tensor in tensors { functions.ov_tensor_free(tensor) }
            functions.ov_infer_request_free(request)
            functions.ov_compiled_model_free(compiledModel)
            throw error
        }
        self.tensors = tensors
    }

    deinit {
        for tensor in tensors { openVINO.functions.ov_tensor_free(tensor) }
        openVINO.functions.ov_infer_request_free(request)
        openVINO.functions.ov_compiled_model_free(compiledModel)
    }

    /// Sets the samples of the batch, as often as the network has rows for all of them.
    func setSamples(_ values: [Float], scaledBy scale: Float) {
        for start in stride(from: 0, to: sample.count, by: values.count) {
            let part = UnsafeMutableBufferPointer(rebasing: sample[start..<start + values.count])
            _ = part.update(from: values)
            // Most schedulers scale nothing.
            if scale != 1 { for index in part.indices { part[index] *= scale } }
        }
    }

    /// Fills the output from the inputs.
    func infer() throws {
        try openVINO.check(openVINO.functions.ov_infer_request_infer(request), "the network can't be run")
    }
}

/// Strings for C, which live as long as this object.
private final class CStrings {
    private var pointers: [UnsafeMutablePointer<CChar>] = []

    subscript(_ text: String) -> UnsafePointer<CChar>? {
        guard let pointer = strdup(text) else { return nil }
        pointers.append(pointer)
        return UnsafePointer(pointer)
    }

    deinit { for pointer in pointers { free(pointer) } }
}

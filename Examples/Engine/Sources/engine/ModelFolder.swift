// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling
import Foundation

/// A model's folder as the hub has it: `model_index.json`, `unet/` and `scheduler/`.
struct ModelFolder {
    let networkPath: String
    /// Of a sample.
    let channels, side: Int
    /// The classes that can be asked for; the network's label after them stands for any class.
    let classCount: Int
    /// The scheduler of the folder's file.
    let scheduler: any PlannedScheduler

    /// The numbers of one sample.
    var elementCount: Int { channels * side * side }

    /// unet/config.json.
    private struct Configuration: Decodable {
        let sampleSize, inChannels, outChannels, numClassEmbeds: Int
    }

    init(path: String) throws {
        for file in ["model_index.json", "unet/config.json", "unet/model.onnx", "scheduler/scheduler_config.json"]
        where !FileManager.default.fileExists(atPath: "\(path)/\(file)") {
            throw EngineError("the model folder \(path) has no \(file)")
        }
        networkPath = "\(path)/unet/model.onnx"
        let file = "\(path)/unet/config.json", decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        guard let bytes = FileManager.default.contents(atPath: file),
            let configuration = try? decoder.decode(Configuration.self, from: bytes)
        else {
            throw EngineError("\(file) must have the numbers sample_size, in_channels, out_channels and num_class_embeds")
        }
        (channels, side, classCount) = (configuration.inChannels, configuration.sampleSize, configuration.numClassEmbeds - 1)
        guard (1...64).contains(channels), (1...4096).contains(side), (1...1_000_000).contains(classCount) else {
            throw EngineError(
                "\(file): in_channels must be from 1 to 64, sample_size from 1 to 4096, num_class_embeds from 2 to 1000001")
        }
        guard configuration.outChannels == channels else {
            throw EngineError("\(file): out_channels is \(configuration.outChannels), but must be in_channels, \(channels)")
        }
        scheduler = try SchedulerCatalog.makeScheduler(contentsOf: path, subfolder: "scheduler")
    }
}

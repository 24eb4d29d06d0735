// SPDX-License-Identifier: Apache-2.0

import DiffusionScheduling

func sample(asking model: ([Float], Double, _ isConditional: Bool) -> [Float]) throws -> [Float] {
    let configuration = """
        {"_class_name": "DEISMultistepScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
        """
    let trained = try SchedulerCatalog.makeScheduler(json: configuration)
    var scheduler = try SchedulerCatalog.makeScheduler(named: "DPM++ 2M Karras", for: trained)
    try scheduler.setTimesteps(20)
    var noise = TorchCPUNoise(seed: 42)
    var sample = noise.normals(4 * 64 * 64).map { $0 * Float(scheduler.initNoiseSigma) }
    let guidance = Guidance(scale: 4, rescale: 0.7)
    for timestep in scheduler.timesteps {
        let input = try scheduler.scaleModelInput(sample, timestep: timestep)
        try scheduler.step(
            conditional: model(input, timestep, true), unconditional: model(input, timestep, false), guidance: guidance,
            timestep: timestep, sample: &sample)
    }
    return sample
}

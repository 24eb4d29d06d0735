// SPDX-License-Identifier: Apache-2.0

import CKernels
import DiffusionScheduling

/// Samples from a Gaussian with a closed-form denoiser, through `any Scheduler`.
///
/// Data with mean 0.5 and deviation 0.1 have, at the noise ratio ς, the predicted noise ε = ς √(1 + ς²) (x − 0.5/√(1 + ς²)) / (0.1²
/// + ς²).
func sample(with scheduler: any PlannedScheduler, steps: Int) throws -> [Float] {
    var scheduler = scheduler
    try scheduler.setTimesteps(steps)
    var x: [Float] = [-1.5, -0.5, 0.5, 1.5]
    for (index, timestep) in scheduler.timesteps.enumerated() {
        let sigma = scheduler.sigmas[index]
        let root = (1 + sigma * sigma).squareRoot()
        let modelOutput = x.map { Float(sigma * root * (Double($0) - 0.5 / root) / (0.01 + sigma * sigma)) }
        try scheduler.step(modelOutput: modelOutput, timestep: timestep, sample: &x)
    }
    return x
}

let scheduler = try SchedulerCatalog.makeScheduler(
    json: #"{"_class_name": "DEISMultistepScheduler", "solver_order": 3, "use_karras_sigmas": true}"#)
let x = try sample(with: scheduler, steps: 20)
print("DEIS, order 3, 20 steps:", x.map { String(describing: $0) }.joined(separator: " "))
print("threads:", String(cString: dsk_runtime_description()))

// A run from the noise z ends at 0.5 + 0.1 z.
let exact: [Float] = [0.35, 0.45, 0.55, 0.65]
guard zip(x, exact).allSatisfy({ abs($0 - $1) < 0.02 }) else {
    fatalError("the samples are not those of the Gaussian")
}

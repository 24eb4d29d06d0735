# SPDX-License-Identifier: Apache-2.0

"""Runs exported plans with torch's operations on the available device, and compares the results with the library's.

    make python && PYTHONPATH=bindings/python python3 Examples/Plans/run_with_torch.py

The loop reads nothing back to the host: the scalars come from the plan, and thresholds stay on the device.
"""

import sys

import torch
from plan import Plan, step


def clamp(prediction, how):
    """The clamp of a predicted clean sample, [batch, ...]."""
    if "range" in how:
        return prediction.clamp(-how["range"]["limit"], how["range"]["limit"])
    items = prediction.abs().reshape(len(prediction), -1)
    s = torch.quantile(items, how["dynamic_threshold"]["ratio"], dim=1)
    s = s.clamp(1, how["dynamic_threshold"]["maximum"]).reshape(-1, *[1] * (prediction.ndim - 1))
    return torch.minimum(torch.maximum(prediction, -s), s) / s


def run(text, start, noises, model_output):
    """A whole run on the tensors' device. Returns the samples at all noise levels and the model's outputs."""
    plan = Plan(text)
    samples, outputs, slots = [start * plan.init_noise_sigma], [], {}
    for index, evaluation in enumerate(plan.evaluations):
        outputs.append(model_output(samples[-1] * evaluation["input_scale"], evaluation["timestep"]))
        samples.append(step(plan, index, index, samples[-1], outputs[-1], noises[index], slots, clamp))
    return samples, outputs


def device():
    """The fastest device of this torch."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


if __name__ == "__main__":
    from cases import report

    def on_device(text, start, noises, model_output):
        with torch.no_grad():
            start, noises = torch.from_numpy(start).to(device()), torch.from_numpy(noises).to(device())
            samples, outputs = run(text, start, noises, model_output)
        return [x.cpu().numpy() for x in samples], [e.cpu().numpy() for e in outputs]

    print(f"on {device()}")
    sys.exit(report(on_device))

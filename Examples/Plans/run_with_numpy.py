# SPDX-License-Identifier: Apache-2.0

"""Runs exported plans with NumPy alone, and compares the results with the library's.

make python && PYTHONPATH=bindings/python python3 Examples/Plans/run_with_numpy.py
"""

import sys

import numpy as np
from plan import Plan, step


def clamp(prediction, how):
    """The clamp of a predicted clean sample, [batch, ...]."""
    if "range" in how:
        return np.clip(prediction, -how["range"]["limit"], how["range"]["limit"])
    items = np.abs(prediction).reshape(len(prediction), -1)
    s = np.quantile(items, how["dynamic_threshold"]["ratio"], axis=1)
    s = np.clip(s, 1, how["dynamic_threshold"]["maximum"]).astype(prediction.dtype).reshape(-1, *[1] * (prediction.ndim - 1))
    return np.clip(prediction, -s, s) / s


def run(text, start, noises, model_output):
    """A whole run. An engine needs no other scheduler code.

    Returns the samples at all noise levels and the model's outputs.
    """
    plan = Plan(text)
    samples, outputs, slots = [start * np.float32(plan.init_noise_sigma)], [], {}
    for index, evaluation in enumerate(plan.evaluations):
        x = samples[-1] * np.float32(evaluation["input_scale"])
        outputs.append(model_output(x, evaluation["timestep"]).astype(np.float32))
        following = step(plan, index, index, samples[-1], outputs[-1], noises[index], slots, clamp)
        samples.append(following.astype(np.float32))
    return samples, outputs


if __name__ == "__main__":
    from cases import report

    sys.exit(report(run))

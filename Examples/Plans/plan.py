# SPDX-License-Identifier: Apache-2.0

"""A sampling plan, read from its JSON (docs/PLAN.md): everything an engine needs to run it."""

import json
import math


class Plan:
    """The rows of a plan, and the members common to all rows."""

    def __init__(self, text):
        plan = json.loads(text)
        if plan["version"] != 1:
            raise ValueError(f"the plan has version {plan['version']}, and this reads 1")
        self.init_noise_sigma = plan["init_noise_sigma"]
        self.clamp = plan["clamp"]
        self.model_learns_variance = plan["model_learns_variance"]
        self.warm_up = plan["warm_up"]
        self.evaluations = plan["evaluations"]

    def row(self, index, age):
        """The scalars of an evaluation in a run that has already taken `age` evaluations."""
        return self.evaluations[index]["rows"][min(age, self.warm_up)]


def combine(combination, streams):
    """The sum of coefficients times tensors, in the order of the streams. Terms with a coefficient of 0 are skipped."""
    total = None
    for name, tensor in streams.items():
        if combination.get(name, 0) != 0:
            term = combination[name] * tensor
            total = term if total is None else total + term
    # All coefficients are 0.
    return 0 * streams["sample"] if total is None else total


def learned(row, model_output, sample, noise):
    """The prediction in a model output, and the noise times its factors.

    The output may hold a variance, behind the prediction on axis 1.
    """
    count = sample.shape[1]
    if model_output.shape[1] == count:
        return model_output, noise
    model_output, variance = model_output[:, :count], model_output[:, count:]
    factor = row.get("noise_factor", {})
    if "root" in factor:
        noise = (variance * (variance > 0)) ** 0.5 * noise
    elif "exponential" in factor:
        exponential = factor["exponential"]
        noise = math.e ** (exponential["offset"] + exponential["slope"] * variance) * noise
    return model_output, noise


def step(plan, index, age, sample, model_output, noise, slots, clamp):
    """One step. Returns the next sample, and stores into `slots`: tensors by name, the most recently stored one last.

    clamp  a function of p and the plan's clamp, in the operations of the tensor library
    """
    row = plan.row(index, age)
    model_output, noise = learned(row, model_output, sample, noise)
    streams = {"sample": sample, "model_output": model_output, "noise": noise, **dict(reversed(slots.items()))}
    prediction = combine(row["prediction"], streams)
    streams["prediction"] = prediction if "none" in plan.clamp else clamp(prediction, plan.clamp)
    next_sample = combine(row["next_sample"], streams)
    # All stores read the slots' values before the step.
    for slot, value in [(slot, combine(sums, streams)) for slot, sums in sorted(row.get("stores", {}).items())]:
        slots.pop(slot, None)
        slots[slot] = value
    return next_sample

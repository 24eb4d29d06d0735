# SPDX-License-Identifier: Apache-2.0

"""A sampling plan, read from its JSON (docs/PLAN.md): what any engine needs to run it."""

import json


class Plan:
    """The rows of a plan and what they hold for."""

    def __init__(self, text):
        plan = json.loads(text)
        if plan["version"] != 1:
            raise ValueError(f"the plan has version {plan['version']}, and this reads 1")
        self.timesteps = plan["grid"]["timesteps"]
        self.init_noise_sigma = plan["initNoiseSigma"]
        self.history_length = plan["historyLength"]
        self.clamp = plan["clamp"]
        self.rows = plan["rows"]

    def row(self, index, remembered):
        """The scalars of a step, with so many outputs of the steps before it remembered."""
        choices = self.rows[index]
        return choices[min(remembered, len(choices) - 1)]


def combine(combination, tensors, history):
    """Sum of coefficient times tensor, the terms of coefficient 0 left out: their tensors may be missing, or infinite."""
    terms = [(combination[name], tensor) for name, tensor in tensors.items() if combination[name] != 0]
    terms += [(coefficient, tensor) for coefficient, tensor in zip(combination["history"], history) if coefficient != 0]
    total = None
    for coefficient, tensor in terms:
        term = coefficient * tensor
        total = term if total is None else total + term
    return total


def step(plan, index, sample, model_output, noise, history, clamp):
    """One step. Returns the next sample and the outputs to remember, the newest first.

    clamp  a function of p and the plan's clamp, with the operations of the tensors' library
    """
    row = plan.row(index, len(history))
    tensors = {"sample": sample, "modelOutput": model_output, "noise": noise}
    prediction = combine({**row["prediction"], "prediction": 0}, {**tensors, "prediction": None}, [])
    tensors["prediction"] = prediction if "none" in plan.clamp else clamp(prediction, plan.clamp)
    next_sample = combine(row["nextSample"], tensors, history)
    if plan.history_length == 0:
        return next_sample, []
    newest = combine(row["history"], tensors, [])
    return next_sample, [newest, *history][: plan.history_length]

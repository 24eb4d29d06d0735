# SPDX-License-Identifier: Apache-2.0

"""Plans to try, and the library's results for comparison."""

import diffusion_scheduling as ds
import numpy as np
from plan import Plan, learned

SHAPE = (2, 4, 16, 16)

CASES = [
    ("DEIS 3", lambda: ds.DEISMultistepScheduler(solver_order=3), 12),
    ("DPM-Solver++ 2, Karras", lambda: ds.DPMSolverMultistepScheduler(use_karras_sigmas=True), 15),
    (
        "DPM-Solver++ 3, thresholds",
        lambda: ds.DPMSolverMultistepScheduler(solver_order=3, thresholding=True, sample_max_value=4.0),
        10,
    ),
    ("DPM-Solver++ 2, stochastic", lambda: ds.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), 20),
    ("DDIM, clipped", lambda: ds.DDIMScheduler(), 25),
    ("DDPM, learned range", lambda: ds.DDPMScheduler(variance_type="learned_range"), 20),
]


def model_output(x, timestep):
    """A stand-in for a model: the same elementwise operations in every tensor library."""
    return 0.3 * x - 0.0001 * timestep


def model_output_with_variance(x, timestep):
    """Like model_output, with a variance after each batch item's prediction."""
    return model_output(x, timestep)[:, [*range(SHAPE[1])] * 2]


def compare(scheduler, samples, outputs, noises):
    """Takes each step of a finished run with the library, from the run's own sample, and compares the next sample.

    samples           the run's, [steps + 1], as NumPy arrays
    outputs, noises   the run's, [steps]

    Returns the largest difference, and the largest ratio of a difference to its bound. Two float32 sums may differ by their errors.
    A sum of n terms is off by at most (n + 1) 2^-24 of the sum of their magnitudes (Higham 2002, section 3.1), and by 2^-24 more
    for the rounded coefficients. Slots hold sums with errors of their own. Clamping never increases a prediction's error. Dividing
    by a threshold at most doubles it: a threshold is at least 1, and its error is at most that of the predictions whose quantile
    it is.
    """
    u = 2.0**-24
    plan, session, slots = Plan(scheduler.plan_json()), ds.Session(scheduler), {}
    greatest, share = 0.0, 0.0
    for index in range(len(plan.evaluations)):
        native = session.step(outputs[index], samples[index], noise=noises[index] if session.needs_noise else None)
        row = plan.row(index, index)
        output, noise = learned(row, outputs[index], samples[index], noises[index])
        # Magnitudes and errors, element by element.
        tensors = {
            name: (np.abs(tensor.astype(np.float64)), 0.0)
            for name, tensor in [("sample", samples[index]), ("model_output", output), ("noise", noise)]
        } | slots

        def total(combination, tensors):
            terms = [(abs(c), *tensors[name]) for name, c in combination.items() if c != 0]
            magnitude = sum(c * size for c, size, _ in terms)
            return magnitude, sum(c * error for c, _, error in terms) + (len(terms) + 2) * u * magnitude

        size, error = total(row["prediction"], tensors)
        if "dynamic_threshold" in plan.clamp:
            worst = np.max(error, axis=tuple(range(1, np.ndim(error))), keepdims=True)
            size, error = np.ones_like(size), error + worst + 4 * u
        tensors["prediction"] = (size, error)
        allowed = total(row["next_sample"], tensors)[1]
        slots = slots | {slot: total(sums, tensors) for slot, sums in row.get("stores", {}).items()}
        difference = np.abs(samples[index + 1].astype(np.float64) - native)
        greatest = max(greatest, float(difference.max()))
        # Both sides are off by up to the bound.
        share = max(share, float((difference / (2 * allowed)).max()))
    return greatest, share


def report(run):
    """Runs all plans with `run(text, start, noises, model_output)`, which returns samples and outputs. Prints the comparison."""
    generator = np.random.default_rng(0)
    failed = 0
    print("plan                         greatest difference  share of what is allowed")
    for name, make, steps in CASES:
        scheduler = make()
        scheduler.set_timesteps(steps)
        start = generator.standard_normal(SHAPE, np.float32)
        noises = generator.standard_normal((len(scheduler.timesteps), *SHAPE), np.float32)
        model = model_output_with_variance if Plan(scheduler.plan_json()).model_learns_variance else model_output
        samples, outputs = run(scheduler.plan_json(), start, noises, model)
        difference, share = compare(scheduler, samples, outputs, noises)
        failed += not share <= 1
        print(f"{name:28} {difference:19.2e} {share:25.3f}{'' if share <= 1 else '  TOO FAR'}")
    return 1 if failed else 0

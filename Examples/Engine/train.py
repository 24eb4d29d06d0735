# SPDX-License-Identifier: Apache-2.0

"""Trains the network of the engine example and writes its model folder.

    make train        # installs torch, diffusers and onnx first; minutes on two cores

The network learns to predict the noise in the demo's digits (Ho et al. 2020, arXiv:2006.11239, equation 14) over the noise levels
of diffusers' DDPMScheduler. One label in ten is replaced by the one for any class, for classifier-free guidance. An exponential
moving average of the weights goes into the folder:

    model_index.json                    the parts of the model
    unet/model.onnx, unet/config.json   the network: sample, timestep, class_labels -> out_sample, for any batch size
    scheduler/scheduler_config.json     as diffusers writes it
    training.log                        losses, and the Frechet distance of samples that diffusers draws from the trained network
    samples.npy                         one sample of each class, drawn by diffusers: an engine's should match from the same seed
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from pathlib import Path

import diffusers
import numpy as np
import onnx
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor
from unet import DigitUNet

HERE = Path(__file__).resolve().parent
DIGITS = HERE.parent / "Demo/Sources/Digits/Data/digits.bin"
SIDE, CLASSES = 8, 10
BATCH, WARM_UP, PEAK_RATE, DECAY = 128, 200, 2e-3, 0.999
LABEL_DROPOUT = 0.1
OPSET = 18
TIMESTEPS = 1000
NOISE = {
    "num_train_timesteps": TIMESTEPS,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
}


def load_digits() -> tuple[Tensor, Tensor]:
    """The pictures, [1797, 1, 8, 8] from -1 (paper) to 1 (ink), and the digit that each one shows."""
    content = np.frombuffer(DIGITS.read_bytes(), np.uint8)
    count = content.size // (SIDE * SIDE + 1)
    pictures = content[: count * SIDE * SIDE].reshape(count, 1, SIDE, SIDE).astype(np.float32) / 8 - 1
    return torch.from_numpy(pictures), torch.from_numpy(content[count * SIDE * SIDE :].astype(np.int64))


class Log:
    """Lines for the terminal and for training.log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)


# ---- Training


def train(pictures: Tensor, labels: Tensor, steps: int, log: Log) -> DigitUNet:
    """Trains a network. Returns a copy with the averaged weights."""
    network, average = DigitUNet(CLASSES), DigitUNet(CLASSES)
    average.load_state_dict(network.state_dict())
    log(f"{sum(p.numel() for p in network.parameters())} parameters, {steps} steps of {BATCH} of {len(pictures)} pictures")
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    levels = DDPMScheduler(**NOISE)
    loss_sum, loss_count = 0.0, 0
    for step in range(1, steps + 1):
        rate = PEAK_RATE * min(step / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.randint(len(pictures), (BATCH,))
        told = torch.where(torch.rand(BATCH) < LABEL_DROPOUT, CLASSES, labels[chosen])
        timesteps = torch.randint(TIMESTEPS, (BATCH,))
        noise = torch.randn(BATCH, 1, SIDE, SIDE)
        noisy = levels.add_noise(pictures[chosen], noise, timesteps)
        loss = (network(noisy.to(memory_format=torch.channels_last), timesteps, told) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        # The average follows the weights quickly at first, while they are still poor.
        decay = min(DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, current in zip(average.parameters(), network.parameters()):
                kept.lerp_(current, 1 - decay)
        loss_sum, loss_count = loss_sum + loss.item(), loss_count + 1
        if step % 250 == 0 or step == steps:
            log(f"step {step:5d}  loss {loss_sum / loss_count:.4f}")
            loss_sum, loss_count = 0.0, 0
    return average.eval()


# ---- Evaluation


@torch.no_grad()
def draw(network: DigitUNet, scheduler: DPMSolverMultistepScheduler, labels: Tensor, steps: int, guidance: float | None) -> Tensor:
    """One sample for each label, drawn with diffusers' scheduler."""
    scheduler.set_timesteps(steps)
    sample = torch.randn(len(labels), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        told = timestep.expand(len(labels))
        output = network(sample, told, labels)
        if guidance is not None:
            unconditional = network(sample, told, torch.full_like(labels, CLASSES))
            output = unconditional + guidance * (output - unconditional)
        sample = scheduler.step(output, timestep, sample).prev_sample
    return sample


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), on pixels."""
    one, other = (x.flatten(1).double().numpy() for x in (one, other))
    means = one.mean(0) - other.mean(0)
    first, second = np.cov(one.T), np.cov(other.T)
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return float(means @ means + np.trace(first) + np.trace(second) - 2 * cross)


def evaluate(network: DigitUNet, scheduler: DPMSolverMultistepScheduler, pictures: Tensor, labels: Tensor, log: Log) -> None:
    log("")
    log("Frechet distance of one sample for each picture's label to the pictures, on pixels:")
    for steps, guidance in [(10, None), (20, None), (50, None), (20, 2.0)]:
        distance = frechet_distance(draw(network, scheduler, labels, steps, guidance), pictures)
        log(f"{steps:3d} steps, {'no guidance' if guidance is None else f'guidance {guidance:g}'}: {distance:.3f}")
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0))
    half = len(pictures) // 2
    log(f"one half of the pictures to the other: {frechet_distance(pictures[order[:half]], pictures[order[half:]]):.3f}")


# ---- The model folder


def export(network: DigitUNet, folder: Path, log: Log) -> None:
    """Writes the network as ONNX, for any batch size."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = (torch.zeros(2, 1, SIDE, SIDE), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    names = ["sample", "timestep", "class_labels"]
    with warnings.catch_warnings():
        # The older exporter needs no further packages, but warns of its age.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            arguments,
            str(folder / "model.onnx"),
            input_names=names,
            output_names=["out_sample"],
            dynamic_axes={name: {0: "batch"} for name in [*names, "out_sample"]},
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    log(f"unet/model.onnx: opset {OPSET}, {(folder / 'model.onnx').stat().st_size} bytes")
    configuration = {
        "_class_name": "DigitUNet",
        "sample_size": SIDE,
        "in_channels": 1,
        "out_channels": 1,
        "num_class_embeds": CLASSES + 1,
    }
    write_json(folder / "config.json", configuration)


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=3000, help="steps of the optimizer (default: 3000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn (default: 0)")
    parser.add_argument("--output", type=Path, default=HERE / "Model", help="the model folder (default: Model, beside this script)")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    log, begin = Log(), time.monotonic()
    pictures, labels = load_digits()
    log(f"torch {torch.__version__.partition('+')[0]}, diffusers {diffusers.__version__}, seed {options.seed}")
    network = train(pictures, labels, options.steps, log)
    print(f"{time.monotonic() - begin:.0f} seconds")
    export(network, options.output / "unet", log)
    # Some schedulers clip predictions to -1 ... 1 by default. Without clipping, all schedulers follow one equation.
    scheduler = DPMSolverMultistepScheduler.from_config({**NOISE, "clip_sample": False})
    scheduler.save_pretrained(options.output / "scheduler")
    index = {
        "_class_name": "ClassConditionalPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "unet": ["diffusers", "OnnxRuntimeModel"],
    }
    write_json(options.output / "model_index.json", index)
    np.save(options.output / "samples.npy", draw(network, scheduler, torch.arange(CLASSES), 20, 2.0).numpy())
    evaluate(network, scheduler, pictures, labels, log)
    (options.output / "training.log").write_text("\n".join(log.lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()

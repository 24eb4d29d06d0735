# SPDX-License-Identifier: Apache-2.0

"""Part (d): pipelines of optimum-intel (on OpenVINO) and optimum-onnx (on ONNX Runtime), with the original scheduler and with the
drop-in.

A small Stable Diffusion with random weights is exported, then loaded into each kind of pipeline. The two packages need different
versions of transformers, so each has its own environment.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import diffusion_scheduling.diffusers as drop_ins
import numpy as np
import torch
import transformers

from .originals import disabled
from .pipelines import (
    ANCESTRAL,
    DDIM,
    DEIS,
    DPM,
    DRAWS,
    EULER,
    HEUN,
    LATENT,
    LCM,
    LEADING,
    TOLERANCE,
    UNCLIPPED,
    UNIPC,
    autoencoder,
    picture,
    run,
    unet,
)


class Runtime(NamedTuple):
    name: str
    module: str
    prefix: str
    """The prefix of the pipelines' class names."""
    options: dict[str, Any]
    """Options for loading the pipelines."""


RUNTIMES = [
    # OpenVINO defaults to bfloat16 on processors that have it. Its rounding would hide the schedulers' differences.
    Runtime("optimum-intel", "optimum.intel", "OV", {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}),
    Runtime("optimum-onnx", "optimum.onnxruntime", "ORT", {}),
]


class Case(NamedTuple):
    label: str
    pipeline: str
    scheduler: str
    config: dict[str, Any]


TEXT, IMAGE, INPAINT = "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"
CASES = [
    Case("text to image, DEIS", TEXT, DEIS, LATENT),
    Case("text to image, DPM-Solver++", TEXT, DPM, LATENT),
    Case("text to image, DPM-Solver++, stochastic", TEXT, DPM, {**LATENT, "algorithm_type": "sde-dpmsolver++"}),
    Case("text to image, UniPC", TEXT, UNIPC, LATENT),
    Case("text to image, DDIM", TEXT, DDIM, UNCLIPPED),
    Case("text to image, Euler", TEXT, EULER, LEADING),
    Case("text to image, Euler, ancestral", TEXT, ANCESTRAL, LEADING),
    Case("text to image, Heun", TEXT, HEUN, LEADING),
    Case("text to image, LCM", TEXT, LCM, UNCLIPPED),
    Case("image to image, DEIS", IMAGE, DEIS, LATENT),
    Case("image to image, Euler", IMAGE, EULER, LEADING),
    Case("inpainting, UniPC", INPAINT, UNIPC, LATENT),
]


def save_model(folder: Path) -> None:
    """Writes the pipeline in diffusers' format. The tokenizer knows two words."""
    tokens = ["<|startoftext|>", "<|endoftext|>", "c", "a", "t</w>", "a</w>", "cat</w>"]
    words = folder / "words"
    words.mkdir(parents=True)
    (words / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(2)
    encoder = transformers.CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    diffusers.StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=transformers.CLIPTextModel(encoder).eval(),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(words, model_max_length=16),
        unet=unet(),
        scheduler=diffusers.DDIMScheduler(**UNCLIPPED),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "torch")


def picture_of(pipe: Any, kind: str, scheduler: Any) -> np.ndarray:
    pipe.scheduler = scheduler
    options: dict[str, Any] = dict(prompt="a cat", num_inference_steps=8, guidance_scale=5.0)
    if kind != IMAGE:
        options |= dict(height=16, width=16)
    if kind != TEXT:
        options |= dict(image=picture(4), strength=0.6)
    if kind == INPAINT:
        mask = torch.zeros(1, 1, 16, 16)
        mask[:, :, 4:12, 4:12] = 1
        options |= dict(mask_image=mask)
    return run(pipe, options)


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def check() -> list[dict[str, Any]] | None:
    """Returns records like `pipelines.check`'s for every case on every installed runtime, or None if no runtime is installed."""
    runtimes = [runtime for runtime in RUNTIMES if is_installed(runtime.module)]
    return [record for runtime in runtimes for record in check_runtime(runtime)] or None


def check_runtime(runtime: Runtime) -> list[dict[str, Any]]:
    library = importlib.import_module(runtime.module)

    torch.set_num_threads(2)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    diffusers.utils.logging.set_verbosity(50)
    for noisy in (diffusers, transformers):
        noisy.utils.logging.disable_progress_bar()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder))
        # optimum-onnx exports a model from a str, not from a Path.
        source, exported = f"{folder}/torch", f"{folder}/exported"
        classes = {kind: getattr(library, runtime.prefix + kind) for kind in (TEXT, IMAGE, INPAINT)}
        classes[TEXT].from_pretrained(source, export=True, **runtime.options).save_pretrained(exported)
        pipes = {kind: pipeline.from_pretrained(exported, **runtime.options) for kind, pipeline in classes.items()}
        for label, kind, name, config in CASES:
            record: dict[str, Any] = {"runtime": runtime.name, "pipeline": label, "scheduler": name}
            try:
                original = getattr(diffusers, name)(**config)
                drop_in = getattr(drop_ins, name).from_config(original.config)
                expected = picture_of(pipes[kind], kind, original)
                with disabled():
                    found = picture_of(pipes[kind], kind, drop_in)
                record["difference"] = float(np.max(np.abs(expected - found))) if expected.shape == found.shape else float("inf")
                record["passed"] = record["difference"] <= TOLERANCE and float(np.ptp(expected[:-DRAWS])) > 0.01
            except Exception as error:
                record.update(passed=False, error=f"{type(error).__name__}: {error}")
            results.append(record)
    logging.disable(logging.NOTSET)
    return results

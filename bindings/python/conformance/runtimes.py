# SPDX-License-Identifier: Apache-2.0

"""Part (d): pipelines of optimum-intel, whose networks OpenVINO runs, with the original scheduler and with the drop-in.

A small Stable Diffusion of random weights is exported, and loaded as each of its pipelines.
"""

from __future__ import annotations

import importlib.util
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

PACKAGE = "optimum.intel"
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
"""Processors with bfloat16 would run the networks in that by default, whose rounding hides the schedulers'."""


class Case(NamedTuple):
    label: str
    pipeline: str
    scheduler: str
    config: dict[str, Any]


TEXT, IMAGE, INPAINT = "OVStableDiffusionPipeline", "OVStableDiffusionImg2ImgPipeline", "OVStableDiffusionInpaintPipeline"
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
    """Writes the pipeline as diffusers does. Its tokenizer knows two words."""
    tokens = ["<|startoftext|>", "<|endoftext|>", "c", "a", "t</w>", "a</w>", "cat</w>"]
    words = {token: number for number, token in enumerate(tokens)}
    torch.manual_seed(2)
    encoder = transformers.CLIPTextConfig(
        vocab_size=len(words),
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
        tokenizer=transformers.CLIPTokenizer(vocab=words, merges=[], model_max_length=16),
        unet=unet(),
        scheduler=diffusers.DDIMScheduler(**UNCLIPPED),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


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


def check() -> list[dict[str, Any]] | None:
    """A record of each case, as those of `pipelines.check`; None where optimum-intel isn't installed."""
    try:
        if importlib.util.find_spec(PACKAGE) is None:
            return None
    except ModuleNotFoundError:
        return None
    from optimum import intel

    torch.set_num_threads(2)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    diffusers.utils.logging.set_verbosity(50)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        source, exported = Path(folder) / "torch", Path(folder) / "openvino"
        save_model(source)
        getattr(intel, TEXT).from_pretrained(source, export=True, ov_config=PRECISION).save_pretrained(exported)
        pipes = {kind: getattr(intel, kind).from_pretrained(exported, ov_config=PRECISION) for kind in (TEXT, IMAGE, INPAINT)}
        for label, kind, name, config in CASES:
            record: dict[str, Any] = {"pipeline": label, "scheduler": name}
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

# SPDX-License-Identifier: Apache-2.0

"""Part (c): whole pipelines with small networks of random weights, with the original scheduler and with the drop-in."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import diffusion_scheduling.diffusers as drop_ins
import numpy as np
import torch

from .originals import disabled

TOLERANCE = 1e-4
"""Absolute, of pictures in [0, 1]: what float32 roundings become on the way through the networks, of which there are few layers
with weights of order 1; steps themselves differ by some 1e-7."""


def unet(**changes: Any) -> Any:
    torch.manual_seed(0)
    arguments: dict[str, Any] = dict(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    return diffusers.UNet2DConditionModel(**{**arguments, **changes}).eval()


def autoencoder(latent_channels: int = 4) -> Any:
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=latent_channels,
    ).eval()


def embeddings(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(seed: int, size: int = 16) -> torch.Tensor:
    return torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(seed))


def stable_diffusion(kind: str, scheduler: Any, network: Any = None) -> Any:
    parts = dict(vae=autoencoder(), text_encoder=None, tokenizer=None, unet=network or unet(), scheduler=scheduler)
    cls = getattr(diffusers, kind)
    return cls(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def prompt() -> dict[str, Any]:
    return dict(prompt_embeds=embeddings(2, 1, 7, 16), negative_prompt_embeds=embeddings(3, 1, 7, 16), guidance_scale=5.0)


def text_to_image(scheduler: Any, **options: Any) -> np.ndarray:
    pipe = stable_diffusion("StableDiffusionPipeline", scheduler)
    return run(pipe, height=16, width=16, num_inference_steps=8, **prompt(), **options)


def image_to_image(scheduler: Any, **options: Any) -> np.ndarray:
    pipe = stable_diffusion("StableDiffusionImg2ImgPipeline", scheduler)
    return run(pipe, image=picture(4), strength=0.6, num_inference_steps=10, **prompt(), **options)


def inpainting(scheduler: Any, **options: Any) -> np.ndarray:
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1
    pipe = stable_diffusion("StableDiffusionInpaintPipeline", scheduler)
    return run(
        pipe, image=picture(5), mask_image=mask, strength=0.9, height=16, width=16, num_inference_steps=8, **prompt(), **options
    )


def ddim(scheduler: Any, **options: Any) -> np.ndarray:
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    ).eval()
    pipe = diffusers.DDIMPipeline(network, scheduler)
    # This pipeline makes a scheduler of its own from the configuration of the one that it is given.
    pipe.scheduler = scheduler
    return run(pipe, num_inference_steps=10, batch_size=2, **options)


def dit(scheduler: Any, **options: Any) -> np.ndarray:
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=4,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        num_embeds_ada_norm=1000,
        norm_elementwise_affine=False,
    ).eval()
    pipe = diffusers.DiTPipeline(network, autoencoder(), scheduler)
    return run(pipe, class_labels=[3, 7], num_inference_steps=6, guidance_scale=4.0, **options)


def flux(scheduler: Any, **options: Any) -> np.ndarray:
    torch.manual_seed(0)
    network = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    ).eval()
    pipe = diffusers.FluxPipeline(
        scheduler=scheduler, vae=autoencoder(1), text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        transformer=network,
    )  # fmt: skip
    pipe.vae.config.shift_factor = 0.0
    return run(
        pipe,
        prompt_embeds=embeddings(2, 1, 7, 32),
        pooled_prompt_embeds=embeddings(3, 1, 32),
        height=16,
        width=16,
        num_inference_steps=8,
        **options,
    )


def run(pipe: Any, **arguments: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(11)
    result: np.ndarray = np.asarray(pipe(**arguments, generator=generator, output_type="np").images)
    # The state of the generator counts as a part of the picture.
    return np.append(result.ravel(), torch.rand(4, generator=generator).numpy())


LATENT: dict[str, Any] = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
FLOW: dict[str, Any] = dict(use_flow_sigmas=True, prediction_type="flow_prediction", use_dynamic_shifting=True)
DEIS, DPM, DDIM = "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"

CASES: list[tuple[str, Callable[..., np.ndarray], str, dict[str, Any], dict[str, Any]]] = [
    ("text to image, DEIS", text_to_image, DEIS, {**LATENT, "solver_order": 3}, {}),
    ("text to image, DEIS, Karras", text_to_image, DEIS, {**LATENT, "use_karras_sigmas": True}, {}),
    ("text to image, DPM-Solver++", text_to_image, DPM, {**LATENT, "use_karras_sigmas": True}, {}),
    ("text to image, DPM-Solver++, stochastic", text_to_image, DPM, {**LATENT, "algorithm_type": "sde-dpmsolver++"}, {}),
    ("text to image, DDIM", text_to_image, DDIM, {**LATENT, "clip_sample": False, "set_alpha_to_one": False}, {}),
    ("text to image, DDIM, eta 1", text_to_image, DDIM, {**LATENT, "clip_sample": False, "set_alpha_to_one": False}, {"eta": 1.0}),
    ("image to image, DEIS", image_to_image, DEIS, LATENT, {}),
    ("image to image, DPM-Solver++", image_to_image, DPM, LATENT, {}),
    ("image to image, DDIM", image_to_image, DDIM, {**LATENT, "clip_sample": False}, {}),
    ("inpainting, DEIS", inpainting, DEIS, LATENT, {}),
    ("inpainting, DPM-Solver++", inpainting, DPM, LATENT, {}),
    ("inpainting, DDIM", inpainting, DDIM, {**LATENT, "clip_sample": False}, {}),
    ("DDIM pipeline", ddim, DDIM, {}, {}),
    ("DDIM pipeline, eta 0.5, clipped output", ddim, DDIM, {}, {"eta": 0.5, "use_clipped_model_output": True}),
    ("DiT, DDIM", dit, DDIM, {"clip_sample": False}, {}),
    ("DiT, DPM-Solver++", dit, DPM, {}, {}),
    ("Flux, DEIS, flow matching", flux, DEIS, FLOW, {}),
]  # fmt: skip


def check() -> list[dict[str, Any]]:
    """For each case, how far apart the pictures are, or why there are none."""
    torch.set_num_threads(2)
    warnings.filterwarnings("ignore")
    diffusers.utils.logging.set_verbosity(50)
    results = []
    for label, pipeline, name, config, options in CASES:
        record: dict[str, Any] = {"pipeline": label, "scheduler": name}
        try:
            expected = pipeline(getattr(diffusers, name)(**config), **options)
            with disabled():
                found = pipeline(getattr(drop_ins, name).from_config(getattr(diffusers, name)(**config).config), **options)
            record["difference"] = float(np.max(np.abs(expected - found))) if expected.shape == found.shape else float("inf")
            record["passed"] = record["difference"] <= TOLERANCE and float(np.ptp(expected)) > 0.01
        except Exception as error:
            record.update(passed=False, error=f"{type(error).__name__}: {error}")
        results.append(record)
    return results

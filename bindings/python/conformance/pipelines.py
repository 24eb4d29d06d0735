# SPDX-License-Identifier: Apache-2.0

"""Part (c): runs whole pipelines on small networks with random weights, with the original scheduler and with the drop-in."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import diffusers
import diffusion_scheduling.diffusers as drop_ins
import numpy as np
import torch
import transformers

from .originals import disabled

TOLERANCE = 1e-4
"""The largest difference that passes, for pictures in [0, 1]. Steps differ by some 1e-7. The networks have few layers and weights
of order 1, and enlarge that."""
DRAWS = 4
"""The count of numbers drawn from the generator after a run and compared with the picture."""


# ---- Networks and their inputs


def network(kind: str, seed: int = 0, **config: Any) -> Any:
    """A network of a diffusers class, with random weights."""
    torch.manual_seed(seed)
    return getattr(diffusers, kind)(**config).eval()


def unet(**changes: Any) -> Any:
    config: dict[str, Any] = dict(
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
    return network("UNet2DConditionModel", **{**config, **changes})


def pixel_unet(**changes: Any) -> Any:
    return network(
        "UNet2DModel",
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        **changes,
    )


def autoencoder(latent_channels: int = 4) -> Any:
    return network(
        "AutoencoderKL",
        seed=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=latent_channels,
        shift_factor=0.0,
    )


def embeddings(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(seed: int, size: int = 16) -> torch.Tensor:
    return torch.rand((1, 3, size, size), generator=torch.Generator().manual_seed(seed))


def prompt(width: int = 16, *, guidance_scale: float = 5.0, pooled: bool = False) -> dict[str, Any]:
    """The arguments of a pipeline instead of a text: embeddings of a prompt and of a negative prompt."""
    found = dict(prompt_embeds=embeddings(2, 1, 7, width), negative_prompt_embeds=embeddings(3, 1, 7, width))
    if pooled:
        found |= dict(pooled_prompt_embeds=embeddings(6, 1, width), negative_pooled_prompt_embeds=embeddings(7, 1, width))
    return dict(**found, guidance_scale=guidance_scale)


# ---- Pipelines


def make(kind: str, scheduler: Any, **parts: Any) -> Any:
    """A pipeline of a diffusers class, without text encoders."""
    cls = getattr(diffusers, kind)
    encoders = {name: None for name in inspect.signature(cls).parameters if name.startswith(("text_encoder", "tokenizer"))}
    return cls(**{**encoders, **parts}, scheduler=scheduler)


def run(pipe: Any, options: dict[str, Any], **defaults: Any) -> np.ndarray:
    """A pipeline's pictures or frames, flattened, followed by the next `DRAWS` numbers of its generator."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(11)
    result: np.ndarray = np.asarray(pipe(**{**defaults, **options}, generator=generator, output_type="np")[0])
    return np.append(result.ravel(), torch.rand(DRAWS, generator=generator).numpy())


SQUARE: dict[str, Any] = dict(height=16, width=16, num_inference_steps=8)


def stable_diffusion(kind: str, scheduler: Any, **changes: Any) -> Any:
    unchecked: dict[str, Any] = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return make(kind, scheduler, vae=autoencoder(), unet=unet(**changes), **unchecked)


def text_to_image(scheduler: Any, **options: Any) -> np.ndarray:
    return run(stable_diffusion("StableDiffusionPipeline", scheduler), options, **SQUARE, **prompt())


def parallel(scheduler: Any, **options: Any) -> np.ndarray:
    pipe = stable_diffusion("StableDiffusionParadigmsPipeline", scheduler)
    pipe.wrapped_unet = pipe.unet
    return run(pipe, options, **SQUARE, **prompt(), parallel=5, tolerance=0.1)


def image_to_image(scheduler: Any, **options: Any) -> np.ndarray:
    pipe = stable_diffusion("StableDiffusionImg2ImgPipeline", scheduler)
    return run(pipe, options, image=picture(4), strength=0.6, num_inference_steps=10, **prompt())


def inpainting(scheduler: Any, **options: Any) -> np.ndarray:
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1
    pipe = stable_diffusion("StableDiffusionInpaintPipeline", scheduler)
    return run(pipe, options, image=picture(5), mask_image=mask, strength=0.9, **SQUARE, **prompt())


def consistency(scheduler: Any, **options: Any) -> np.ndarray:
    pipe = stable_diffusion("LatentConsistencyModelPipeline", scheduler, time_cond_proj_dim=8)
    return run(pipe, options, height=16, width=16, num_inference_steps=4, prompt_embeds=prompt()["prompt_embeds"])


def consistency_image_to_image(scheduler: Any, **options: Any) -> np.ndarray:
    pipe = stable_diffusion("LatentConsistencyModelImg2ImgPipeline", scheduler, time_cond_proj_dim=8)
    return run(pipe, options, image=picture(4), num_inference_steps=4, prompt_embeds=prompt()["prompt_embeds"])


def stable_diffusion_xl(kind: str, scheduler: Any) -> Any:
    # Added to the time: six numbers about the picture's size, with 8 channels each, and the pooled prompt, with 16.
    added: dict[str, Any] = dict(
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 16
    )
    return make(kind, scheduler, vae=autoencoder(), unet=unet(**added), add_watermarker=False)


def xl_text_to_image(scheduler: Any, **options: Any) -> np.ndarray:
    return run(stable_diffusion_xl("StableDiffusionXLPipeline", scheduler), options, **SQUARE, **prompt(pooled=True))


def xl_image_to_image(scheduler: Any, **options: Any) -> np.ndarray:
    pipe = stable_diffusion_xl("StableDiffusionXLImg2ImgPipeline", scheduler)
    return run(pipe, options, image=picture(4), strength=0.6, num_inference_steps=10, **prompt(pooled=True))


def xl_base_and_refiner(scheduler: Any, **options: Any) -> np.ndarray:
    """A run that one pipeline begins and another ends, with the same scheduler."""
    base = stable_diffusion_xl("StableDiffusionXLPipeline", scheduler)
    base.set_progress_bar_config(disable=True)
    start = dict(denoising_end=0.6, output_type="latent", generator=torch.Generator().manual_seed(10))
    latents = base(**SQUARE, **prompt(pooled=True), **start)[0]
    return xl_image_to_image(scheduler, image=latents, denoising_start=0.6, num_inference_steps=8, **options)


def stable_diffusion_3(kind: str, scheduler: Any) -> Any:
    transformer = network(
        "SD3Transformer2DModel",
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
    )
    return make(kind, scheduler, vae=autoencoder(), transformer=transformer)


def sd3_text_to_image(scheduler: Any, **options: Any) -> np.ndarray:
    return run(stable_diffusion_3("StableDiffusion3Pipeline", scheduler), options, **SQUARE, **prompt(32, pooled=True))


def sd3_image_to_image(scheduler: Any, **options: Any) -> np.ndarray:
    pipe = stable_diffusion_3("StableDiffusion3Img2ImgPipeline", scheduler)
    return run(pipe, options, image=picture(4), strength=0.6, **SQUARE, **prompt(32, pooled=True))


def flux_pipeline(kind: str, scheduler: Any) -> Any:
    transformer = network(
        "FluxTransformer2DModel",
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    return make(kind, scheduler, vae=autoencoder(1), transformer=transformer)


FLUX_PROMPT: dict[str, Any] = dict(prompt_embeds=embeddings(2, 1, 7, 32), pooled_prompt_embeds=embeddings(3, 1, 32))


def flux(scheduler: Any, **options: Any) -> np.ndarray:
    return run(flux_pipeline("FluxPipeline", scheduler), options, **SQUARE, **FLUX_PROMPT)


def flux_image_to_image(scheduler: Any, **options: Any) -> np.ndarray:
    pipe = flux_pipeline("FluxImg2ImgPipeline", scheduler)
    return run(pipe, options, image=picture(4), strength=0.6, **SQUARE, **FLUX_PROMPT)


def qwen_image(scheduler: Any, **options: Any) -> np.ndarray:
    transformer = network(
        "QwenImageTransformer2DModel",
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    vae = network(
        "AutoencoderKLQwenImage",
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    pipe = make("QwenImagePipeline", scheduler, vae=vae, transformer=transformer)
    texts = prompt()
    del texts["guidance_scale"]
    masks = {f"{name}_mask": torch.ones(1, 7, dtype=torch.int64) for name in texts}
    return run(pipe, options, true_cfg_scale=2.0, **SQUARE, **texts, **masks)


def wan(scheduler: Any, **options: Any) -> np.ndarray:
    transformer = network(
        "WanTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    vae = network("AutoencoderKLWan", seed=1, base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    pipe = make("WanPipeline", scheduler, vae=vae, transformer=transformer)
    return run(pipe, options, num_frames=5, **SQUARE, **prompt())


def video(scheduler: Any, **options: Any) -> np.ndarray:
    frames_unet = network(
        "UNetSpatioTemporalConditionModel",
        block_out_channels=(32, 32),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=16,
        num_attention_heads=2,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=3 * 8,
    )
    vae = network("AutoencoderKLTemporalDecoder", 1, down_block_types=["DownEncoderBlock2D"] * 2, block_out_channels=[32, 32])
    torch.manual_seed(2)
    sizes: dict[str, Any] = dict(image_size=16, patch_size=8, hidden_size=16, intermediate_size=16, projection_dim=16)
    vision = transformers.CLIPVisionConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)
    pipe = make(
        "StableVideoDiffusionPipeline",
        scheduler,
        vae=vae,
        unet=frames_unet,
        image_encoder=transformers.CLIPVisionModelWithProjection(vision).eval(),
        feature_extractor=transformers.CLIPImageProcessor(),
    )
    return run(pipe, options, image=picture(4), num_frames=2, **SQUARE)


def ddim(scheduler: Any, **options: Any) -> np.ndarray:
    pipe = make("DDIMPipeline", scheduler, unet=pixel_unet())
    # The pipeline's constructor makes its own scheduler from the given scheduler's configuration.
    pipe.scheduler = scheduler
    return run(pipe, options, num_inference_steps=10, batch_size=2)


def ddpm(scheduler: Any, **options: Any) -> np.ndarray:
    return run(make("DDPMPipeline", scheduler, unet=pixel_unet()), options, num_inference_steps=10, batch_size=2)


def score_sde(scheduler: Any, **options: Any) -> np.ndarray:
    score = pixel_unet(time_embedding_type="fourier", norm_eps=1e-6)
    return run(make("ScoreSdeVePipeline", scheduler, unet=score), options, num_inference_steps=12, batch_size=2)


def karras_ve(scheduler: Any, **options: Any) -> np.ndarray:
    return run(make("KarrasVePipeline", scheduler, unet=pixel_unet()), options, num_inference_steps=10, batch_size=2)


def dit(scheduler: Any, **options: Any) -> np.ndarray:
    transformer = network(
        "DiTTransformer2DModel",
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
    )
    pipe = make("DiTPipeline", scheduler, vae=autoencoder(), transformer=transformer)
    return run(pipe, options, class_labels=[3, 7], num_inference_steps=6, guidance_scale=4.0)


# ---- Cases


class Case(NamedTuple):
    label: str
    pipeline: Callable[..., np.ndarray]
    scheduler: str
    config: dict[str, Any] = {}
    options: dict[str, Any] = {}
    """Arguments of the pipeline's call. They override the function's own."""


def ltx(scheduler: Any, *, strength: float, **options: Any) -> np.ndarray:
    """A video that begins with a picture, whose tokens have their own timesteps."""
    once, straight = (1, 1, 1, 1, 1), (False, False, False, False)
    vae = network(
        "AutoencoderKLLTXVideo",
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=once,
        decoder_layers_per_block=once,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, *straight),
        upsample_residual=straight,
        upsample_factor=(1, 1, 1, 1),
        patch_size=1,
        patch_size_t=1,
        decoder_causal=False,
    )
    transformer = network(
        "LTXVideoTransformer3DModel",
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=16,
    )
    pipe = make("LTXConditionPipeline", scheduler, vae=vae, transformer=transformer)
    masks = dict(prompt_attention_mask=torch.ones(1, 7), negative_prompt_attention_mask=torch.ones(1, 7))
    size = dict(height=32, width=32, num_frames=9, num_inference_steps=6)
    return run(pipe, options, image=picture(4, 32), strength=strength, **size, **prompt(), **masks)


DEIS, DPM, DDIM = "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"
PNDM, EULER, ANCESTRAL = "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"
HEUN, UNIPC, DDPM, LCM = "HeunDiscreteScheduler", "UniPCMultistepScheduler", "DDPMScheduler", "LCMScheduler"
FLOW_EULER = "FlowMatchEulerDiscreteScheduler"

# Configurations of published models.
LATENT: dict[str, Any] = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
UNCLIPPED: dict[str, Any] = dict(**LATENT, clip_sample=False)
LATENT_DDIM: dict[str, Any] = dict(**UNCLIPPED, set_alpha_to_one=False)
LATENT_PNDM: dict[str, Any] = dict(**LATENT, skip_prk_steps=True, set_alpha_to_one=False)
LEADING: dict[str, Any] = dict(**LATENT, timestep_spacing="leading")
VIDEO: dict[str, Any] = dict(
    **LEADING,
    prediction_type="v_prediction",
    sigma_min=0.002,
    sigma_max=700.0,
    timestep_type="continuous",
    use_karras_sigmas=True,
)
FLOW: dict[str, Any] = dict(use_flow_sigmas=True, prediction_type="flow_prediction")
SD3: dict[str, Any] = dict(shift=3.0)
FLUX: dict[str, Any] = dict(
    use_dynamic_shifting=True, shift=3.0, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
)
QWEN: dict[str, Any] = dict(
    use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256, max_image_seq_len=8192, shift_terminal=0.02
)

CASES = [
    Case("text to image, DEIS", text_to_image, DEIS, {**LATENT, "solver_order": 3}),
    Case("text to image, DEIS, Karras", text_to_image, DEIS, {**LATENT, "use_karras_sigmas": True}),
    Case("text to image, DPM-Solver++", text_to_image, DPM, {**LATENT, "use_karras_sigmas": True}),
    Case("text to image, DPM-Solver++, stochastic", text_to_image, DPM, {**LATENT, "algorithm_type": "sde-dpmsolver++"}),
    Case("text to image, DDIM", text_to_image, DDIM, LATENT_DDIM),
    Case("text to image, DDIM, eta 1", text_to_image, DDIM, LATENT_DDIM, {"eta": 1.0}),
    Case("text to image, PNDM", text_to_image, PNDM, LATENT_PNDM),
    Case("text to image, PNDM, Runge-Kutta steps", text_to_image, PNDM, {**LATENT_PNDM, "skip_prk_steps": False}),
    Case("text to image, Euler", text_to_image, EULER, LEADING),
    Case("text to image, Euler, velocity", text_to_image, EULER, {**LEADING, "prediction_type": "v_prediction"}),
    Case("text to image, Euler, Karras", text_to_image, EULER, {**LEADING, "use_karras_sigmas": True}),
    Case("text to image, Euler, ancestral", text_to_image, ANCESTRAL, LEADING),
    Case("text to image, Heun", text_to_image, HEUN, LEADING),
    Case("text to image, UniPC", text_to_image, UNIPC, LATENT),
    Case("text to image, UniPC, third order", text_to_image, UNIPC, {**LATENT, "solver_order": 3}),
    Case("text to image, DDPM", text_to_image, DDPM, UNCLIPPED),
    Case("text to image, LCM", text_to_image, LCM, UNCLIPPED, {"num_inference_steps": 4}),
    Case("text to image in parallel, DDIM", parallel, "DDIMParallelScheduler", LATENT_DDIM),
    Case("text to image in parallel, DDPM", parallel, "DDPMParallelScheduler", UNCLIPPED),
    Case("image to image, DEIS", image_to_image, DEIS, LATENT),
    Case("image to image, DPM-Solver++", image_to_image, DPM, LATENT),
    Case("image to image, DDIM", image_to_image, DDIM, UNCLIPPED),
    # A PNDM run that begins at a later step differs on purpose: docs/DIFFERENCES.md.
    Case("image to image, PNDM, all steps", image_to_image, PNDM, LATENT_PNDM, {"strength": 1.0}),
    Case("image to image, Euler", image_to_image, EULER, LEADING),
    Case("image to image, Heun", image_to_image, HEUN, LEADING),
    Case("image to image, UniPC", image_to_image, UNIPC, LATENT),
    Case("inpainting, DEIS", inpainting, DEIS, LATENT),
    Case("inpainting, DPM-Solver++", inpainting, DPM, LATENT),
    Case("inpainting, DDIM", inpainting, DDIM, UNCLIPPED),
    Case("inpainting, Euler", inpainting, EULER, LEADING),
    Case("latent consistency, LCM", consistency, LCM, UNCLIPPED),
    Case("latent consistency, image to image, LCM", consistency_image_to_image, LCM, UNCLIPPED),
    Case("SDXL, Euler", xl_text_to_image, EULER, LEADING),
    Case("SDXL, Euler, timesteps given", xl_text_to_image, EULER, LEADING, {"timesteps": [999, 850, 680, 455, 230, 70]}),
    Case("SDXL, Euler, sigmas given", xl_text_to_image, EULER, LEADING, {"sigmas": [14.6, 6.3, 2.9, 1.2, 0.5, 0.1]}),
    Case("SDXL, image to image, Euler", xl_image_to_image, EULER, LEADING),
    Case("SDXL, base and refiner, Euler", xl_base_and_refiner, EULER, LEADING),
    Case("SD3, flow matching", sd3_text_to_image, FLOW_EULER, SD3),
    Case("SD3, flow matching, sigmas given", sd3_text_to_image, FLOW_EULER, SD3, {"sigmas": [1.0, 0.7, 0.4, 0.2]}),
    Case("SD3, image to image, flow matching", sd3_image_to_image, FLOW_EULER, SD3),
    Case("Flux, flow matching", flux, FLOW_EULER, FLUX),
    Case("Flux, image to image, flow matching", flux_image_to_image, FLOW_EULER, FLUX),
    Case("Flux, DEIS, flow matching", flux, DEIS, {**FLOW, "use_dynamic_shifting": True}),
    Case("Qwen-Image, flow matching", qwen_image, FLOW_EULER, QWEN),
    Case("Wan, UniPC, flow matching", wan, UNIPC, {**FLOW, "flow_shift": 3.0}),
    Case("LTX-Video from a picture, flow matching", ltx, FLOW_EULER, {}, {"strength": 0.7}),
    Case("LTX-Video from a picture kept as it is, flow matching", ltx, FLOW_EULER, SD3, {"strength": 1.0}),
    Case("Stable Video Diffusion, Euler, continuous", video, EULER, VIDEO),
    Case("DDIM pipeline", ddim, DDIM),
    Case("DDIM pipeline, eta 0.5, clipped output", ddim, DDIM, {}, {"eta": 0.5, "use_clipped_model_output": True}),
    Case("DDPM pipeline", ddpm, DDPM),
    Case("DDPM pipeline, large variance", ddpm, DDPM, {"variance_type": "fixed_large"}),
    Case("Score SDE pipeline", score_sde, "ScoreSdeVeScheduler", {"sigma_max": 0.4}),
    Case("Score SDE pipeline, two corrections", score_sde, "ScoreSdeVeScheduler", {"sigma_max": 0.4, "correct_steps": 2}),
    Case("Karras VE pipeline", karras_ve, "KarrasVeScheduler", {"sigma_max": 1.0}),
    Case("Karras VE pipeline, noise at all levels", karras_ve, "KarrasVeScheduler", {"sigma_max": 1.0, "s_min": 0.0, "s_max": 1e6}),
    Case("DiT, DDIM", dit, DDIM, {"clip_sample": False}),
    Case("DiT, DPM-Solver++", dit, DPM),
]


def check() -> list[dict[str, Any]]:
    """A record for each case: the largest difference between its pictures, or an error."""
    torch.set_num_threads(2)
    warnings.filterwarnings("ignore")
    diffusers.utils.logging.set_verbosity(50)
    results = []
    for label, pipeline, name, config, options in CASES:
        record: dict[str, Any] = {"pipeline": label, "scheduler": name}
        try:
            original = getattr(diffusers, name)(**config)
            # Made before the run, because pipelines change configurations.
            drop_in = getattr(drop_ins, name).from_config(original.config)
            expected = pipeline(original, **options)
            with disabled():
                found = pipeline(drop_in, **options)
            record["difference"] = float(np.max(np.abs(expected - found))) if expected.shape == found.shape else float("inf")
            record["passed"] = record["difference"] <= TOLERANCE and float(np.ptp(expected[:-DRAWS])) > 0.01
        except Exception as error:
            record.update(passed=False, error=f"{type(error).__name__}: {error}")
        results.append(record)
    return results

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Makes a folder with a tiny Stable Diffusion of random weights, laid out as optimum-intel exports models.

    make_model.py FOLDER

The networks are written with OpenVINO's operations: a text encoder, a denoiser of 4 channels and a decoder that enlarges by a
factor of eight. The weights come from a fixed seed, so every machine makes the same model. The pictures show nothing, but they
depend on the prompt, the seed and the scheduler like a trained model's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino_tokenizers import convert_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WIDTH = 16
TOKENS = 16
WORDS = ["<end>", "a", "picture", "of", "the", "sea", "mountain", "red", "blue", "house"]
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}

random = np.random.default_rng(20)


def weights(*shape: int, scale: float = 1.0) -> np.ndarray:
    """Normal numbers with variance scale² / (inputs per output)."""
    fan_in = int(np.prod(shape[1:])) or 1
    return (random.standard_normal(shape) * scale / fan_in**0.5).astype(np.float32)


def convolution(x: ov.Output, inputs: int, outputs: int, scale: float = 1.0) -> ov.Node:
    return ops.convolution(x, weights(outputs, inputs, 3, 3, scale=scale), [1, 1], [1, 1], [1, 1], [1, 1])


def named(node: ov.Node, name: str) -> ov.Node:
    node.output(0).set_names({name})
    node.set_friendly_name(name)
    return node


def parameter(name: str, shape: list[int], element_type: type) -> ov.Node:
    return named(ops.parameter(shape, element_type), name)


def text_encoder() -> ov.Model:
    ids = parameter("input_ids", [-1, TOKENS], np.int64)
    states = ops.gather(weights(len(WORDS), WIDTH, scale=4.0), ids, np.int64(0))
    return ov.Model([named(states, "last_hidden_state")], [ids], "text_encoder")


def denoiser() -> ov.Model:
    """The predicted noise: most of the sample, plus the output of three convolutions on sample, timestep and text."""
    sample = parameter("sample", [-1, 4, -1, -1], np.float32)
    timestep = parameter("timestep", [1], np.int64)
    states = parameter("encoder_hidden_states", [-1, -1, WIDTH], np.float32)

    frequencies = np.exp(np.linspace(0, -6, WIDTH // 2)).astype(np.float32)[None, :]
    angles = ops.multiply(ops.unsqueeze(ops.convert(timestep, np.float32), np.int64(1)), frequencies)
    time = ops.matmul(ops.concat([ops.sin(angles), ops.cos(angles)], 1), weights(WIDTH, WIDTH), False, False)
    text = ops.matmul(ops.reduce_mean(states, np.int64(1)), weights(WIDTH, WIDTH, scale=2.0), False, False)
    condition = ops.unsqueeze(ops.add(time, text), np.array([2, 3], np.int64))

    hidden = ops.swish(ops.add(convolution(sample, 4, WIDTH), condition))
    hidden = ops.swish(ops.add(convolution(hidden, WIDTH, WIDTH), condition))
    change = convolution(hidden, WIDTH, 4)
    noise = ops.add(ops.multiply(sample, np.float32(0.85)), ops.multiply(ops.tanh(change), np.float32(0.1)))
    return ov.Model([named(noise, "out_sample")], [sample, timestep, states], "unet")


def decoder() -> ov.Model:
    latents = parameter("latent_sample", [-1, 4, -1, -1], np.float32)
    wide = ops.swish(convolution(latents, 4, WIDTH, scale=1.5))
    sizes = ops.constant(np.array([8.0, 8.0], np.float32))
    wide = ops.interpolate(wide, sizes, "linear_onnx", "scales", axes=np.array([2, 3], np.int64))
    return ov.Model([named(ops.tanh(convolution(wide, WIDTH, 3, scale=0.4)), "sample")], [latents], "vae_decoder")


def tokenizer() -> ov.Model:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<end>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<end>", eos_token="<end>", unk_token="<end>")
    return convert_tokenizer(fast, with_detokenizer=False)


PARTS: dict[str, tuple[Callable[[], ov.Model], dict]] = {
    "text_encoder": (text_encoder, {"max_position_embeddings": TOKENS, "num_hidden_layers": 1}),
    "unet": (denoiser, {"in_channels": 4, "sample_size": 16}),
    "vae_decoder": (
        decoder,
        {
            "block_out_channels": [WIDTH] * 4,
            "in_channels": 3,
            "latent_channels": 4,
            "out_channels": 3,
            "scaling_factor": 0.18215,
        },
    ),
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_json(file: Path, contents: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(contents, indent=2) + "\n")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    for name, (make, configuration) in PARTS.items():
        write_json(folder / name / "config.json", configuration)
        ov.save_model(make(), folder / name / "openvino_model.xml", compress_to_fp16=False)
    (folder / "tokenizer").mkdir(exist_ok=True)
    ov.save_model(tokenizer(), folder / "tokenizer" / "openvino_tokenizer.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main()

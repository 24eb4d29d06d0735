# SPDX-License-Identifier: Apache-2.0

"""Rescaling of guided model outputs, which preserves the picture's contrast."""

from __future__ import annotations

from ctypes import byref

import numpy as np

from ._arrays import Array, as_tensor, common_type, computing_type, deliver, result_arrays
from ._library import check, library


def rescale_noise_cfg(
    noise_cfg: Array, noise_pred_text: Array, guidance_rescale: float = 0.0, *, out: Array | None = None
) -> Array:
    """Rescales each batch item of a guided model output, so that guidance doesn't change the picture's contrast.

        out = factor * noise_cfg,  factor = r std(noise_pred_text) / std(noise_cfg) + (1 - r)

    Lin et al. 2023, arXiv:2305.08891, section 3.4.

    noise_cfg         [batch, ...] the guided output
    noise_pred_text   the conditional output, of the same shape
    guidance_rescale  r in [0, 1]; the paper uses 0.7
    out               the array to write the result to, which may be an input's memory; None: a new one

    Raises InvalidValueError, a ValueError.
    """
    guided, conditional = np.asarray(noise_cfg), np.asarray(noise_pred_text)
    dtype = common_type(guided, conditional)
    work = computing_type(dtype)
    guided, conditional = np.asarray(guided, work, order="C"), np.asarray(conditional, work, order="C")
    result, target = result_arrays(guided.shape, dtype, work, out)
    tg, tc, to = as_tensor(guided), as_tensor(conditional), as_tensor(target)
    check(
        library.ds_rescale_noise_cfg(byref(tg), byref(tc), guidance_rescale, byref(to), 0),
        guided="noise_cfg",
        conditional="noise_pred_text",
    )
    return deliver(result, target)

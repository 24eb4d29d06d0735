# SPDX-License-Identifier: Apache-2.0

"""The schedulers for NumPy arrays, with the class names and constructor parameters of diffusers.

    scheduler = DEISMultistepScheduler.from_pretrained("model", subfolder="scheduler")
    scheduler.set_timesteps(20)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x).prev_sample

The classes are made from the library's descriptions. docs/DIFFERENCES.md lists the differences from diffusers' results, and their
reasons.
"""

from ._description import DESCRIPTIONS
from ._schedulers import OUTPUTS, make_class

_made = {cls.__name__: cls for cls in [*OUTPUTS.values(), *map(make_class, DESCRIPTIONS.values())]}
globals().update(_made)

__all__ = [*_made]

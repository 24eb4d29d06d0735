# SPDX-License-Identifier: Apache-2.0

"""The schedulers, under diffusers' names and with the parameters of its constructors, for NumPy arrays.

    scheduler = DEISMultistepScheduler.from_pretrained("model", subfolder="scheduler")
    scheduler.set_timesteps(20)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x).prev_sample

The classes are made of the library's descriptions. Their parameters are diffusers'; docs/DIFFERENCES.md lists where results
differ, and why.
"""

from ._description import DESCRIPTIONS
from ._schedulers import OUTPUTS, make_class

_made = {cls.__name__: cls for cls in [*OUTPUTS.values(), *map(make_class, DESCRIPTIONS.values())]}
globals().update(_made)

__all__ = [*_made]

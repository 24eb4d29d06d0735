# SPDX-License-Identifier: Apache-2.0

"""Drop-in replacements for diffusers' schedulers: the same classes, computed by the library.

    from diffusion_scheduling.diffusers import DEISMultistepScheduler
    pipe.scheduler = DEISMultistepScheduler.from_config(pipe.scheduler.config)

Each class derives from the original with its name, so pipelines accept it. The original provides the constructor, loading, saving
and the hub. The library provides timesteps, noise levels, conversions, steps and noise addition.

There is a drop-in for each class that both the library and the installed diffusers have. If a class needs a package that isn't
installed, such as torchsde, its name here is diffusers' stand-in, which raises an error when it is used.

The library reads and writes contiguous tensors in the host's memory directly. Tensors on CUDA and XPU step by a Triton kernel if
Triton is installed. Other tensors, and tensors that need gradients, step through the same plan by torch's operations. A step at an
element of the scheduler's own ``timesteps`` reads nothing back from the device. Other timesteps on a device, and separate timesteps
of items or tokens, are read back.

Several threads may use one stateless scheduler at once, because its steps depend only on their arguments. The other schedulers
count the steps of a run, and only one thread at a time may use a run.
"""

from typing import Any

import diffusers
from diffusers.utils import DummyObject

from ._description import DESCRIPTIONS, Description
from ._drop_ins import make_class
from ._handles import Plan


def _class_of(original: type[Any], description: Description) -> type[Any]:
    return original if isinstance(original, DummyObject) else make_class(original, description, __name__)


_made = {
    name: _class_of(getattr(diffusers, name), description) for name, description in DESCRIPTIONS.items() if hasattr(diffusers, name)
}
globals().update(_made)

__all__ = list(_made)


def make_scheduler(name: str, model: Any = None, **kwargs: Any) -> Any:
    """Makes the drop-in for a sampler's name.

        pipe.scheduler = make_scheduler("DPM++ 2M Karras", pipe.scheduler)

    Arguments and errors as for ``diffusion_scheduling.make_scheduler``.
    """
    plan = Plan.named(name, model, kwargs)
    return _made[plan.class_name].from_config(plan.config)

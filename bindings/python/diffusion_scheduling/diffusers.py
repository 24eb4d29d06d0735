# SPDX-License-Identifier: Apache-2.0

"""Drop-in replacements for diffusers' schedulers: the same classes, with the work done by the library.

    from diffusion_scheduling.diffusers import DEISMultistepScheduler
    pipe.scheduler = DEISMultistepScheduler.from_config(pipe.scheduler.config)

Each class derives from the original of its name, so that pipelines accept it, and takes from it what has to do with
configurations: the constructor, loading, saving and the hub. Timesteps, noise levels, conversions, steps and noise addition
are the library's. There is one for each class that both the library and the installed diffusers have; where that needs a package
that isn't installed, such as torchsde, diffusers' stand-in for its class, which says so when it is used. Where pipelines call other
methods of a class than ``step``, a stand-in of ours says so.

Tensors in the host's memory are read and written where they are. Tensors on CUDA and XPU are stepped by one launch of a Triton
kernel if Triton is installed. Other tensors, and those that need gradients, go through the same plan with torch's own operations.
The host knows all that a step needs to know, so nothing is read back but the timesteps of items or tokens that have their own.

Threads may take steps with one stateless scheduler at once, one whose steps depend on nothing but their arguments. The others count
the steps of a run, which is one thread's at a time.
"""

from typing import Any

import diffusers
from diffusers.utils import DummyObject

from ._description import DESCRIPTIONS, Description
from ._drop_ins import make_class, make_stand_in
from ._handles import Plan


def _class_of(original: type[Any], description: Description) -> type[Any]:
    if description.other_calls is not None:
        return make_stand_in(description, __name__)
    return original if isinstance(original, DummyObject) else make_class(original, description, __name__)


_made = {
    name: _class_of(getattr(diffusers, name), description) for name, description in DESCRIPTIONS.items() if hasattr(diffusers, name)
}
globals().update(_made)

# Classes only: `import *` gives the names that diffusers has, but for those with a stand-in of ours.
__all__ = [name for name in _made if DESCRIPTIONS[name].other_calls is None]


def make_scheduler(name: str, model: Any = None, **kwargs: Any) -> Any:
    """Makes the drop-in of a sampler's name: see ``diffusion_scheduling.make_scheduler``.

    pipe.scheduler = make_scheduler("DPM++ 2M Karras", pipe.scheduler)
    """
    plan = Plan.named(name, model, kwargs)
    return _made[plan.class_name].from_config(plan.config)

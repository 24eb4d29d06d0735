# SPDX-License-Identifier: Apache-2.0

"""A request run alone, in a plain loop: the reference for the pool's pictures."""

import numpy as np
from diffusion_scheduling import NoiseSource, Session, make_scheduler


def run_alone(model, request):
    """The request's picture and its number of steps."""
    scheduler = make_scheduler(request.sampler, model.config)
    scheduler.set_timesteps(request.steps)
    session, source = Session(scheduler), NoiseSource.torch_cpu(request.seed)
    sample = source.standard_normal((1, *model.shape)) * np.float32(scheduler.init_noise_sigma)
    while (timestep := session.timestep) is not None:
        inputs = scheduler.scale_model_input(sample, timestep)
        conditional = model(inputs, [timestep], [request.digit])
        unconditional = model(inputs, [timestep], [None]) if request.guidance else None
        noise = source.standard_normal(sample.shape) if session.needs_noise else None
        sample = session.step(conditional, sample, unconditional=unconditional, guidance=request.guidance, noise=noise)
    return sample[0], session.step_index

# SPDX-License-Identifier: Apache-2.0

"""The five schedulers, under diffusers' names and with the parameters of its constructors, for NumPy arrays.

    scheduler = DEISMultistepScheduler.from_pretrained("model", subfolder="scheduler")
    scheduler.set_timesteps(20)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x).prev_sample

What the parameters mean is diffusers' documentation's to say; where results differ on purpose, the README says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _library, _noise
from ._configuration import takes_configuration
from ._library import Row, StepCall, StepTensors, library
from ._noise import Generator
from ._schedulers import (
    Array,
    DDIMBase,
    DDIMSchedulerOutput,
    MultistepScheduler,
    Options,
    SchedulerOutput,
    common_type,
)

Betas = Sequence[float] | npt.NDArray[Any]
Generators = Generator | Sequence[Generator]


class DEISMultistepScheduler(MultistepScheduler):
    """DEIS: a multistep solver that is exact for polynomials in the logarithm of the noise level.

    Zhang and Chen 2022, arXiv:2204.13902, with the variable ρ of its section 4 and the basis log ρ.

    ``from_config(..., final_sigmas_type="zero")``, a key that diffusers doesn't have, lets a run end without noise.
    """

    _extra_keys = {"final_sigmas_type": "diffusion_scheduling_final_sigmas_type"}

    @takes_configuration
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Betas | None = None,
        solver_order: int = 2,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: str = "deis",
        solver_type: str = "logrho",
        lower_order_final: bool = True,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        use_flow_sigmas: bool = False,
        flow_shift: float = 1.0,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
    ) -> None: ...

    def step(
        self,
        model_output: Array,
        timestep: float,
        sample: Array,
        return_dict: bool = True,
        *,
        out: Array | None = None,
    ) -> SchedulerOutput | tuple[Array, ...]:
        """Takes the step from the sample at a timestep to the next sample.

        timestep     of the plan; the first step may be any, then they come in their order
        return_dict  False: returns a tuple of one

        Raises TimestepError, StepPastEndError (an IndexError), InvalidValueError.
        """
        result = self._step(model_output, timestep, sample, None, out)
        return SchedulerOutput(*result) if return_dict else result

    def convert_model_output(self, model_output: Array, *args: Any, sample: Array | None = None, out: Array | None = None) -> Array:
        """The noise that a model output predicts at the step that comes next, of the thresholded clean sample if so configured."""
        return self._convert(model_output, args, sample, out)

    def deis_first_order_update(
        self, model_output: Array, *args: Any, sample: Array | None = None, out: Array | None = None
    ) -> Array:
        """The next sample by an update of order 1, from the converted output of the step that comes next."""
        return self._update(1, [model_output], args, sample, None, out)

    def multistep_deis_second_order_update(
        self, model_output_list: Sequence[Array], *args: Any, sample: Array | None = None, out: Array | None = None
    ) -> Array:
        """The next sample by an update of order 2, from the last two converted outputs, the newest last."""
        return self._update(2, model_output_list, args, sample, None, out)

    def multistep_deis_third_order_update(
        self, model_output_list: Sequence[Array], *args: Any, sample: Array | None = None, out: Array | None = None
    ) -> Array:
        """The next sample by an update of order 3, from the last three converted outputs, the newest last."""
        return self._update(3, model_output_list, args, sample, None, out)


class _DPMSolver(MultistepScheduler):
    """What the DPM-Solver and its inverse have in common."""

    _draws_noise = True

    def step(
        self,
        model_output: Array,
        timestep: float,
        sample: Array,
        generator: Generators | None = None,
        variance_noise: Array | None = None,
        return_dict: bool = True,
        *,
        out: Array | None = None,
    ) -> SchedulerOutput | tuple[Array, ...]:
        """Takes the step from the sample at a timestep to the next sample.

        timestep        of the plan; the first step may be any, then they come in their order
        generator       where a stochastic step's noise comes from, one or [batch]; None: anywhere
        variance_noise  that noise itself, shaped as the sample
        return_dict     False: returns a tuple of one

        Raises TimestepError, StepPastEndError (an IndexError), InvalidValueError.
        """
        noise = None
        if self._is_stochastic:
            noise = variance_noise
            if noise is None:
                noise = _noise.draw(generator, np.shape(sample), np.dtype(np.float32))
        result = self._step(model_output, timestep, sample, noise, out)
        return SchedulerOutput(*result) if return_dict else result

    def _read_plan(self) -> None:
        super()._read_plan()
        self._is_stochastic = self._draws_noise and self.config["algorithm_type"].startswith("sde")

    def convert_model_output(self, model_output: Array, *args: Any, sample: Array | None = None, out: Array | None = None) -> Array:
        """What the solver extrapolates, of a model output at the step that comes next.

        The predicted clean sample for the algorithms whose names end in ++, the predicted noise for the others.
        """
        return self._convert(model_output, args, sample, out)

    def dpm_solver_first_order_update(
        self,
        model_output: Array,
        *args: Any,
        sample: Array | None = None,
        noise: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """The next sample by an update of order 1, from the converted output of the step that comes next."""
        return self._update(1, [model_output], args, sample, noise, out)

    def multistep_dpm_solver_second_order_update(
        self,
        model_output_list: Sequence[Array],
        *args: Any,
        sample: Array | None = None,
        noise: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """The next sample by an update of order 2, from the last two converted outputs, the newest last."""
        return self._update(2, model_output_list, args, sample, noise, out)

    def multistep_dpm_solver_third_order_update(
        self,
        model_output_list: Sequence[Array],
        *args: Any,
        sample: Array | None = None,
        noise: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """The next sample by an update of order 3, from the last three converted outputs, the newest last."""
        return self._update(3, model_output_list, args, sample, noise, out)


class DPMSolverMultistepScheduler(_DPMSolver):
    """DPM-Solver and DPM-Solver++, deterministic and stochastic.

    Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095.
    """

    @takes_configuration
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Betas | None = None,
        solver_order: int = 2,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: str = "dpmsolver++",
        solver_type: str = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        use_lu_lambdas: bool = False,
        use_flow_sigmas: bool = False,
        flow_shift: float = 1.0,
        final_sigmas_type: str = "zero",
        lambda_min_clipped: float = -math.inf,
        variance_type: str | None = None,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
    ) -> None: ...

    def _result_type(self, model_output: Array, sample: Array) -> np.dtype[Any]:
        # The original casts to the type of the converted output, which is the model's own where nothing is converted.
        algorithm = self.config["algorithm_type"]
        kept = "sample" if algorithm.endswith("++") else "epsilon"
        if self.config["prediction_type"] == kept and (kept == "sample" or not self.config["thresholding"]):
            return common_type(model_output)
        return common_type(model_output, sample)


class DPMSolverMultistepInverseScheduler(_DPMSolver):
    """The DPM-Solver backwards in time: from a picture to the noise that ``DPMSolverMultistepScheduler`` makes it of.

    The stochastic algorithms are run as their deterministic twins: an inversion has no use for noise.
    """

    _draws_noise = False
    _extra_keys = {"final_sigmas_type": "diffusion_scheduling_final_sigmas_type"}

    @takes_configuration
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Betas | None = None,
        solver_order: int = 2,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: str = "dpmsolver++",
        solver_type: str = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        use_flow_sigmas: bool = False,
        flow_shift: float = 1.0,
        lambda_min_clipped: float = -math.inf,
        variance_type: str | None = None,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
    ) -> None: ...


class DDIMScheduler(DDIMBase):
    """DDIM: denoising diffusion implicit models.

    Song, Meng and Ermon 2020, arXiv:2010.02502. A step depends on its arguments and the number of steps only, so steps may be
    taken at any timestep of the training and in any order.
    """

    _extra_keys = {"previous_timestep": "diffusion_scheduling_previous_timestep"}

    @takes_configuration
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Betas | None = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
    ) -> None: ...

    def step(
        self,
        model_output: Array,
        timestep: float,
        sample: Array,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generators | None = None,
        variance_noise: Array | None = None,
        return_dict: bool = True,
        *,
        out: Array | None = None,
    ) -> DDIMSchedulerOutput | tuple[Array, ...]:
        """Takes the step from the sample at a timestep to the next sample.

        timestep                  of the training
        eta                       the share of ancestral noise, in [0, 1]; above 0 the step adds noise
        use_clipped_model_output  whether the noise is computed anew from the clipped clean sample
        generator                 where that noise comes from, one or [batch]; None: anywhere
        variance_noise            that noise itself, shaped as the sample; not together with a generator
        return_dict               False: returns a pair, the next sample and the predicted clean one

        Raises TimestepError, InvalidValueError.
        """
        noise = None
        if eta > 0:
            if generator is not None and variance_noise is not None:
                raise _library.InvalidValueError("generator and variance_noise are both given, but at most one may be")
            noise = variance_noise
            if noise is None:
                e = np.asarray(model_output)
                noise = _noise.draw(generator, e.shape, common_type(e))
        result = self._step(timestep, (eta, use_clipped_model_output), model_output, sample, noise, out)
        return DDIMSchedulerOutput(*result) if return_dict else result

    def _call(self, options: Options, tensors: StepTensors) -> StepCall:
        eta, use_clipped_model_output = options
        return self._plan.ddim_step(tensors, eta, use_clipped_model_output, self._threads)

    def row_at(self, timestep: float, eta: float = 0.0, use_clipped_model_output: bool = False) -> Row:
        """The scalars of the step from any timestep of the training, for engines whose tensors live elsewhere."""
        return self._plan.ddim_row(timestep, eta, use_clipped_model_output)

    def add_noise(
        self,
        original_samples: Array,
        noise: Array,
        timesteps: float | Sequence[float] | Array,
        *,
        out: Array | None = None,
    ) -> Array:
        """sqrt(alpha) * original_samples + sqrt(1 - alpha) * noise with alpha = alphas_cumprod[t].

        timesteps  of the training, one for all or [batch]

        Raises TimestepError, a ValueError.
        """
        return self._mix_by_training(library.ds_scheduler_add_noise, original_samples, noise, timesteps, out)

    def get_velocity(
        self, sample: Array, noise: Array, timesteps: float | Sequence[float] | Array, *, out: Array | None = None
    ) -> Array:
        """sqrt(alpha) * noise - sqrt(1 - alpha) * sample with alpha = alphas_cumprod[t], which v_prediction predicts."""
        return self._mix_by_training(library.ds_scheduler_get_velocity, sample, noise, timesteps, out)


class DDIMInverseScheduler(DDIMBase):
    """DDIM backwards in time: from a picture to the noise that ``DDIMScheduler`` makes it of.

    Song, Meng and Ermon 2020, arXiv:2010.02502, section 4.3.

    others  passed over, as in diffusers, but for ``set_alpha_to_zero``, an old name of ``set_alpha_to_one``
    """

    @takes_configuration
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Betas | None = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        clip_sample_range: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
        **others: Any,
    ) -> None: ...

    def step(
        self, model_output: Array, timestep: float, sample: Array, return_dict: bool = True, *, out: Array | None = None
    ) -> DDIMSchedulerOutput | tuple[Array, ...]:
        """Takes the step from the sample that is `num_train_timesteps // num_inference_steps` below a timestep to that timestep.

        timestep     of the training
        return_dict  False: returns a pair, the next sample and the predicted clean one

        Raises TimestepError, InvalidValueError.
        """
        result = self._step(timestep, (), model_output, sample, None, out)
        return DDIMSchedulerOutput(*result) if return_dict else result

    def _call(self, options: Options, tensors: StepTensors) -> StepCall:
        return self._plan.ddim_inverse_step(tensors, self._threads)

    def row_at(self, timestep: float) -> Row:
        """The scalars of the step to any timestep of the training, for engines whose tensors live elsewhere."""
        return self._plan.ddim_inverse_row(timestep)

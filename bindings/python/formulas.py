# SPDX-License-Identifier: Apache-2.0

"""The formula of each class's step, and the papers that it comes from, for the reference and for docs/SCHEDULERS.md.

The comments in the Swift sources say more: how runs begin and end, and what each class has besides.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Formula(NamedTuple):
    """The step of a class."""

    papers: str
    """Their names and arXiv ids."""
    setting: str
    """The symbols, in a sentence that ends in a colon."""
    step: str
    """The formula, in lines."""

    @property
    def text(self) -> str:
        """Two paragraphs for the reference."""
        papers = re.sub(r"\b(\d{4}\.\d{5})\b", r"arXiv:\1", self.papers)
        lines = "".join(f"    {line}\n" for line in self.step.split("\n"))
        return f"{papers}. {self.setting}\n\n{lines}"


PRESERVING = "A step leads from the signal variance ᾱ_t to ᾱ_u. With the predicted clean sample p"
EXPLODING = "A sample at the level ς is data + ς noise. A step leads from ς to τ. With the derivative d = (x − p)/ς"
FLOW = "A sample at the level ς is (1 − ς) data + ς noise, and the model predicts the velocity e. A step leads from ς to τ"
RATES = "A sample is A data + S noise. A step leads from s to t, λ = ln(A/S), h = λ_t − λ_s"

DDIM = "x' = √ᾱ_u p + √(1 − ᾱ_u − σ²) ε + σ z        σ² = η² (1 − ᾱ_u)/(1 − ᾱ_t) (1 − ᾱ_t/ᾱ_u)"
DDPM = "x' = √ᾱ_u β/(1 − ᾱ_t) p + √(ᾱ_t/ᾱ_u) (1 − ᾱ_u)/(1 − ᾱ_t) x + σ z        β = 1 − ᾱ_t/ᾱ_u"
DPM_SOLVER = "x' = a x + w₀ D₀ + w₁ D₁ + w₂ D₂ + c z        w₀ = A_t (1 − e^−h), a = S_t/S_s, c = 0 for dpmsolver++"
EDM = "p = c_skip x + c_out e        c_skip = σ_d²/(ς² + σ_d²)        c_out = ς σ_d/√(ς² + σ_d²)"
RENOISING = "p = x − ς e        x' = (1 − τ) p + τ z"
UNIPC = (
    "x_c = U + b m₀              the sample, corrected by m₀; x itself in the first step\n"
    "x'  = a x_c + Σ wₖ mₖ       the predictor\n"
    "U'  = a x_c + Σ cₖ mₖ       the next step's correction, but for the term of its own output"
)
OUTPUTS = "With the outputs m₀ of this step and m₁, m₂ … of those before:"

FORMULAS = {
    "CMStochasticIterativeScheduler": Formula(
        "Song et al. 2023, 2303.01469",
        "A step from the level ς to τ computes the consistency function f and adds noise z. With ε = sigma_min, σ_d = sigma_data:",
        "f  = clamp( c_skip x + c_out e )        c_skip = σ_d²/((ς − ε)² + σ_d²)        c_out = σ_d (ς − ε)/√(ς² + σ_d²)\n"
        "x' = f + s_noise √(τ² − ε²) z",
    ),
    "CogVideoXDDIMScheduler": Formula(
        "Yang et al. 2024, 2408.06072",
        f"{PRESERVING}:",
        "x' = q x + (√ᾱ_u − q √ᾱ_t) p        q = √((1 − ᾱ_u)/(1 − ᾱ_t))",
    ),
    "CogVideoXDPMScheduler": Formula(
        "Lu et al. 2022, 2211.01095, Yang et al. 2024, 2408.06072",
        f"{PRESERVING}, p₁ of the step before, noise z, λ = ½ ln ᾱ/(1 − ᾱ), h = λ_u − λ_t and the weight w of the difference:",
        "x' = e^−h √((1 − ᾱ_u)/(1 − ᾱ_t)) x + √ᾱ_u (1 − e^−2h) (p + w (p − p₁)) + √(1 − ᾱ_u) √(1 − e^−2h) z",
    ),
    "CosineDPMSolverMultistepScheduler": Formula(
        "Evans et al. 2024, 2407.14358",
        "A step leads from the level ς to τ. With r = τ/ς, σ_d = sigma_data, noise z and the slope of DPM-Solver++:",
        f"{EDM}\nx' = r² x + (1 − r²) (p + slope) + τ √(1 − r²) z",
    ),
    "DDIMInverseScheduler": Formula(
        "Song et al. 2020, 2010.02502",
        "A step leads from the signal variance ᾱ_t to the lesser ᾱ_u. With the predicted clean sample p and the predicted noise ε:",
        "x' = √ᾱ_u p + √(1 − ᾱ_u) ε",
    ),
    "DDIMParallelScheduler": Formula(
        "Shih et al. 2023, 2305.16317", f"{PRESERVING}, the predicted noise ε and noise z, which a batch step leaves out:", DDIM
    ),
    "DDIMScheduler": Formula("Song et al. 2020, 2010.02502", f"{PRESERVING}, the predicted noise ε, noise z and η = eta:", DDIM),
    "DDPMParallelScheduler": Formula(
        "Shih et al. 2023, 2305.16317", f"{PRESERVING} and noise z, which a batch step leaves out:", DDPM
    ),
    "DDPMScheduler": Formula("Ho et al. 2020, 2006.11239", f"{PRESERVING} and noise z of the variance σ² by variance_type:", DDPM),
    "DDPMWuerstchenScheduler": Formula(
        "Pernias et al. 2023, 2306.00637",
        "A step leads from the time t to u, with signal variances ᾱ(t) and ᾱ(u), β = 1 − ᾱ(t)/ᾱ(u) and noise z:",
        "x' = (x − β/√(1 − ᾱ(t)) e)/√(1 − β) + √(β (1 − ᾱ(u))/(1 − ᾱ(t))) z",
    ),
    "DEISMultistepScheduler": Formula(
        "Zhang and Chen 2022, 2204.13902",
        "A sample is A data + S noise. A step from s to t integrates the polynomial through the last predicted noises εₖ in "
        "ρ = S/A. With Lagrange's polynomials Lₖ:",
        "x' = (A_t/A_s) x + A_t Σₖ εₖ ∫ₛᵗ Lₖ dρ",
    ),
    "DPMSolverMultistepInverseScheduler": Formula(
        "Lu et al. 2022, 2211.01095", f"{RATES} < 0. With divided differences Dₖ of the last outputs:", DPM_SOLVER
    ),
    "DPMSolverMultistepScheduler": Formula(
        "Lu et al. 2022, 2206.00927, 2211.01095",
        f"{RATES}. With divided differences Dₖ of the last outputs, and noise z:",
        DPM_SOLVER,
    ),
    "DPMSolverSDEScheduler": Formula(
        "Lu et al. 2022, 2211.01095",
        "A sample at the level ς is data + ς noise. A step leads from ς to τ by the level m. With r = τ/ς, the predicted clean "
        "sample p and increments W of a Brownian motion, divided by their deviations:",
        "m = √(ς τ)        x̃  = r x + (1 − r) p(x, ς) + s_noise m √(1 − r) W(ς, m)\n"
        "                  x' = r² x + (1 − r²) p(x̃, m) + s_noise τ √(1 − r²) W(ς, τ)",
    ),
    "DPMSolverSinglestepScheduler": Formula(
        "Lu et al. 2022, 2206.00927, 2211.01095",
        f"{RATES}. Steps of a block begin at its first sample x, with divided differences Dₖ of the block's outputs, and noise z:",
        DPM_SOLVER,
    ),
    "EDMDPMSolverMultistepScheduler": Formula(
        "Karras et al. 2022, 2206.00364, Lu et al. 2022, 2211.01095",
        "A step leads from the level ς to τ. With σ_d = sigma_data and the slope of DPM-Solver++:",
        f"{EDM}\nx' = (τ/ς) x + (1 − τ/ς) (p + slope)",
    ),
    "EDMEulerScheduler": Formula(
        "Karras et al. 2022, 2206.00364",
        "A step raises the noise of the sample from ς to ς̂ = (1 + γ) ς and leads down to τ. With σ_d = sigma_data, and ς̂ for ς:",
        f"{EDM}\nd = (x̂ − p)/ς̂        x' = x̂ + (τ − ς̂) d",
    ),
    "EulerAncestralDiscreteScheduler": Formula(
        "Song et al. 2020, 2011.13456",
        f"{EXPLODING} and noise z:",
        "σ_up² = τ² (ς² − τ²)/ς²        σ_down = τ²/ς        x' = x + (σ_down − ς) d + σ_up z",
    ),
    "EulerDiscreteScheduler": Formula(
        "Karras et al. 2022, 2206.00364",
        "A sample at the level ς is data + ς noise. A step raises the noise to ς̂ = (1 + γ) ς and leads down to τ. With the "
        "predicted clean sample p and noise z:",
        "x̂ = x + s_noise √(ς̂² − ς²) z        d = (x̂ − p)/ς̂        x' = x̂ + (τ − ς̂) d",
    ),
    "FlowMapEulerDiscreteScheduler": Formula(
        "Gu et al. 2026, 2605.13724",
        "A sample at the level ς is (1 − ς) data + ς noise. The model predicts the mean velocity e between the timesteps t and r:",
        "x' = x + (ς_r − ς_t) e",
    ),
    "FlowMatchEulerDiscreteScheduler": Formula("Esser et al. 2024, 2403.03206", f"{FLOW}:", "x' = x + (τ − ς) e"),
    "FlowMatchHeunDiscreteScheduler": Formula(
        "Esser et al. 2024, 2403.03206",
        f"{FLOW}. With the churn γ and noise z:",
        "x̂ = x + ς √(γ² + 2γ) z        h = τ − (1 + γ) ς        d = e(x, ς)/(1 + γ)\n"
        "x̃ = x̂ + h d                   x' = x̂ + h/2 (d + e(x̃, τ))",
    ),
    "FlowMatchLCMScheduler": Formula("Starodubcev et al. 2025, 2503.16397", f"{FLOW} and adds noise z:", RENOISING),
    "HeliosDMDScheduler": Formula(
        "Yin et al. 2024, 2405.14867", f"{FLOW} and adds noise z, the stage's first sample in every step:", RENOISING
    ),
    "HeliosScheduler": Formula("Jin et al. 2024, 2410.05954", f"{FLOW}. {OUTPUTS}", f"{UNIPC}\nx'  = x + (τ − ς) e         euler"),
    "HeunDiscreteScheduler": Formula(
        "Karras et al. 2022, 2206.00364",
        f"{EXPLODING} and h = τ − ς:",
        "x̃ = x + h d(x, ς)        x' = x + h/2 (d(x, ς) + d(x̃, τ))",
    ),
    "IPNDMScheduler": Formula(
        "Zhang and Chen 2022, 2204.13902",
        "A sample is α data + β noise. A step leads to α' and β' along a combination of the last four predicted noises εₖ:",
        "x' = α' (x − β ε̄)/α + β' ε̄        ε̄ = (55 ε₀ − 59 ε₁ + 37 ε₂ − 9 ε₃)/24",
    ),
    "KDPM2AncestralDiscreteScheduler": Formula(
        "Lu et al. 2022, 2206.00927",
        f"{EXPLODING} and noise z:",
        "σ_up² = τ² (ς² − τ²)/ς²        σ_down = τ²/ς\nx̃ = x + (τ − ς) d(x, ς)        x' = x + (σ_down − ς) d(x̃, τ) + σ_up z",
    ),
    "KDPM2DiscreteScheduler": Formula(
        "Lu et al. 2022, 2206.00927",
        f"{EXPLODING}, and the level m in the middle:",
        "m = √(ς τ)        x̃ = x + (m − ς) d(x, ς)        x' = x + (τ − ς) d(x̃, m)",
    ),
    "KarrasVeScheduler": Formula(
        "Karras et al. 2022, 2206.00364",
        "A sample at the level ς is data + ς noise, and the model predicts e = −(x − p)/ς. A step leads from ς to τ, with noise z:",
        "x̂ = x + s_noise √(ς̂² − ς²) z        ς̂ = (1 + γ) ς\n"
        "x̃ = x̂ − (τ − ς̂) e(x̂, ς̂)            x' = x̂ − (τ − ς̂)/2 (e(x̂, ς̂) + e(x̃, τ))",
    ),
    "LCMScheduler": Formula(
        "Luo et al. 2023, 2310.04378",
        f"{PRESERVING}, noise z and k = timestep_scaling · t:",
        "f  = c_skip x + c_out p        c_skip = ¼/(k² + ¼)        c_out = k/√(k² + ¼)\nx' = √ᾱ_u f + √(1 − ᾱ_u) z",
    ),
    "LMSDiscreteScheduler": Formula(
        "Karras et al. 2022, 2206.00364",
        "A step from the level ς₀ to τ integrates the polynomial through the last derivatives dⱼ, of the levels ςⱼ:",
        "x' = x + Σⱼ wⱼ dⱼ        wⱼ = ∫ ∏_{l≠j} (ς − ς_l)/(ςⱼ − ς_l) dς from ς₀ to τ",
    ),
    "LTXEulerAncestralRFScheduler": Formula(
        "HaCohen et al. 2024, 2501.00103",
        f"{FLOW}. With η = eta, noise z and ε = 1e-12:",
        "δ  = τ (1 + η (τ/ς − 1))        f = (1 − τ)/(1 − δ + ε)\n"
        "x' = f (x + (δ − ς) e) + s_noise √(τ² − δ² (1 − τ)²/((1 − δ)² + ε)) z",
    ),
    "MiniMaxH3Scheduler": Formula(
        "Liu et al. 2022, 2209.03003",
        "A sample at the time t = 1 − ς is (1 − ς) data + ς noise, and the model predicts the velocity e towards the data. A step "
        "leads from ς to τ:",
        "p = x + (1 − t) e        x' = x + (ς − τ)/ς (p − x)",
    ),
    "PiflowScheduler": Formula(
        "Chen et al. 2025, 2510.14974",
        "A sample at the level ς is (1 − ς) data + ς noise. The model predicts K velocities, for times between the levels ς and τ. "
        "The step follows their interpolation by Euler's method, which is one sum with weights w:",
        "e = Σ w_k e_k        x' = x + (τ − ς) e",
    ),
    "PNDMScheduler": Formula(
        "Liu et al. 2022, 2202.09778",
        "A step leads from the signal variance ᾱ_t to ᾱ_u along a combination of the last four model outputs eₖ:",
        "x' = √(ᾱ_u/ᾱ_t) x − (ᾱ_u − ᾱ_t)/(ᾱ_t √(1 − ᾱ_u) + √(ᾱ_t (1 − ᾱ_t) ᾱ_u)) ε\nε  = (55 e₀ − 59 e₁ + 37 e₂ − 9 e₃)/24",
    ),
    "SASolverScheduler": Formula(
        "Xue et al. 2023, 2309.05019",
        f"{OUTPUTS[:-1]}, and noise z:",
        "x_c = U + b m₀                    the sample, corrected by m₀; x itself in the first step\n"
        "x'  = a x_c + Σ wₖ mₖ + c z       the predictor\n"
        "U'  = a x_c + Σ cₖ mₖ + c z       the next step's correction, but for the term of its own output",
    ),
    "SCMScheduler": Formula(
        "Chen et al. 2025, 2503.09641",
        "A sample at the angle s is cos(s) data + sin(s) σ_d noise, σ_d = sigma_data. A step leads from s to t, with noise z:",
        "p = cos(s) x − sin(s) e        x' = cos(t) p + σ_d sin(t) z",
    ),
    "ScoreSdeVeScheduler": Formula(
        "Song et al. 2021, 2011.13456",
        "A sample at the level ς is data + ς noise, and the model predicts the score e. A step corrects the sample at ς, and then "
        "leads it to τ, with noise z:",
        "x' = x + η e + √(2η) z        η = 2 snr² ς²\nx' = x + g² e + g z             g² = ς² − τ²",
    ),
    "TCDScheduler": Formula(
        "Zheng et al. 2024, 2402.19159",
        f"{PRESERVING}, the predicted noise ε, noise z, η = eta and the timestep s = ⌊(1 − η) u⌋:",
        "x_s = √ᾱ_s p + √(1 − ᾱ_s) ε        x' = √(ᾱ_u/ᾱ_s) x_s + √(1 − ᾱ_u/ᾱ_s) z",
    ),
    "UnCLIPScheduler": Formula(
        "Ramesh et al. 2022, 2204.06125",
        f"{PRESERVING} and noise z:",
        f"{DDPM}\nσ² = max((1 − ᾱ_u)/(1 − ᾱ_t) β, 1e-20), or between that and β, as the model predicts",
    ),
    "UniPCMultistepScheduler": Formula("Zhao et al. 2023, 2302.04867", OUTPUTS, UNIPC),
}
"""The formulas by the names of classes."""


def formula_text(class_name: str) -> str:
    """A class's formula and papers for the reference; empty for a class without."""
    return FORMULAS[class_name].text if class_name in FORMULAS else ""

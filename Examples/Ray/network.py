# SPDX-License-Identifier: Apache-2.0

"""The network: here the exact denoiser of 1,797 handwritten digits, in NumPy. Any other network can replace it.

The pool needs two attributes and a call:

    config                                 the model's scheduler_config.json, as a dictionary
    shape                                  a sample's shape
    network(inputs, timesteps, digits)     the predicted noise [n, *shape] of n inputs; each digit is a condition, or None

A picture's bits are independent of other requests only if the network computes a row alike in any batch. This network evaluates
each row alone, with operations whose shapes don't depend on the batch.
"""

import json
from pathlib import Path

import numpy as np

DEMO = Path(__file__).parents[1] / "Demo" / "Sources"


class DigitNetwork:
    """E[noise | input] for digits x = m + U c, c from a mixture of normal distributions around the images.

    Examples/Demo/Sources/Digits/DigitMixture.swift derives the formula. The weights are computed once, when the network is made,
    and travel with it: another machine's eigenvectors would differ in the last bits.
    """

    shape = (8, 8)
    bandwidth = 0.45

    def __init__(self, config, images, labels):
        """config: the training's noise levels; images: [image, pixel] from -1 to 1; labels: [image]"""
        self.config, self.labels = config, labels
        betas = np.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, config["num_train_timesteps"]) ** 2
        signal = np.cumprod(1 - betas)
        self.log_sigmas = np.log((1 - signal) / signal) / 2
        self.mean = images.mean(0)
        eigenvalues, basis = np.linalg.eigh(np.cov(images.T, bias=True))
        self.variances = self.bandwidth**2 * eigenvalues.clip(0)
        self.basis = np.ascontiguousarray(basis)
        self.centres = ((1 - self.bandwidth**2) ** 0.5 * (images - self.mean) @ basis).astype(np.float32)
        self.squares = self.centres**2
        self.choices = {digit: np.flatnonzero(labels == digit) for digit in range(10)}

    @classmethod
    def of_the_demo(cls):
        """The digits and the noise levels of Examples/Demo."""
        data = np.frombuffer((DEMO / "Digits/Data/digits.bin").read_bytes(), np.uint8)
        count = data.size // 65
        config = json.loads((DEMO / "demo/scheduler_config.json").read_text())
        return cls(config, data[: 64 * count].reshape(count, 64) / 8 - 1, data[64 * count :])

    def __call__(self, inputs, timesteps, digits):
        return np.stack([self._noise(*row) for row in zip(inputs, timesteps, digits, strict=True)])

    def _noise(self, noisy, timestep, digit):
        """The output for one row. einsum sums in a fixed order; BLAS may choose an order by the number of rows."""
        sigma = np.exp(np.interp(timestep, np.arange(self.log_sigmas.size), self.log_sigmas))
        a, s = 1 / np.hypot(1, sigma), sigma / np.hypot(1, sigma)
        v = a * a * self.variances + s * s
        x = np.einsum("k,kj->j", noisy.reshape(-1) - a * self.mean, self.basis)
        centres, squares = self.centres, self.squares
        if digit is not None:
            centres, squares = centres[self.choices[digit]], squares[self.choices[digit]]
        scores = np.einsum("ik,k->i", centres, (a * x / v).astype(np.float32))
        scores -= np.einsum("ik,k->i", squares, (a * a / (2 * v)).astype(np.float32))
        weights = np.exp(scores - scores.max())
        centre = np.einsum("i,ik->k", weights, centres) / weights.sum()
        clean = centre + a * self.variances / v * (x - a * centre)
        clean = np.einsum("j,kj->k", clean, self.basis) + self.mean
        return ((noisy - a * clean.reshape(self.shape)) / s).astype(np.float32)

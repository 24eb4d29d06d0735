#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0

"""Writes ``deis_methods.json``: the coefficients of the paper's multistep methods, from 50-digit arithmetic.

A step of tAB- or ρAB-DEIS (Zhang and Chen 2022, arXiv:2204.13902), or of diffusers' polynomials in ln ρ, is x' = a x + Σ_k b[k] ε_k
with b[k] = A_t ∫ L_k(u(ρ)) dρ. diffusers' scheduler provides the levels. The integrals of polynomials in ρ and in ln ρ have closed
forms. If u is the timestep, it is linear in ln ρ between whole timesteps, and the integrals are sums over these pieces. Flow
matching takes mpmath's quadrature.

Usage::

    out/reference/bin/python Tests/Goldens/generate_deis_methods.py
"""

import json
from pathlib import Path

import diffusers
import mpmath
import numpy as np
from generate import amplitudes, mpf, number

ORDERS = {"rho_ab": (2, 3, 4), "t_ab": (2, 3, 4), None: (4,)}
RUNS = [
    (6, {}),
    (7, {"beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1, "timestep_spacing": "leading"}),
    (8, {"num_train_timesteps": 20, "trained_betas": [(j + 1) / 50 for j in range(20)]}),
    (6, {"use_karras_sigmas": True}),
    (5, {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}),
]


def polynomial_product(p, q):
    product = [mpf(0)] * (len(p) + len(q) - 1)
    for i, a in enumerate(p):
        for j, b in enumerate(q):
            product[i + j] += a * b
    return product


def exponential_moment(polynomial, start, end):
    """∫ p(λ) e^λ dλ = e^λ (p − p' + p'' − …), from start to end. The polynomial's coefficients begin with the constant."""
    total, sign = mpf(0), 1
    while polynomial:
        for at, side in [(end, 1), (start, -1)]:
            total += sign * side * mpmath.exp(at) * mpmath.polyval(polynomial[::-1], at)
        polynomial, sign = [k * c for k, c in enumerate(polynomial)][1:], -sign
    return total


def lagrange(k, nodes, value):
    """The coefficients of L_k(u) as a polynomial in λ, lowest first, for u = value[0] + value[1] λ."""
    product = [mpf(1)]
    for m, node in enumerate(nodes):
        if m != k:
            product = polynomial_product(product, [(value[0] - node) / (nodes[k] - node), value[1] / (nodes[k] - node)])
    return product


def weights(method, is_flow, table, ratios, target):
    """∫ L_k(u(ρ)) dρ from ratios[0] to the target for the nodes at the ratios, newest first."""
    count, start = len(ratios), ratios[0]
    if method == "rho_ab":
        return [
            mpmath.polyval([c / (n + 1) for n, c in enumerate(p)][::-1] + [0], target)
            - mpmath.polyval([c / (n + 1) for n, c in enumerate(p)][::-1] + [0], start)
            for p in (lagrange(k, ratios, (mpf(0), mpf(1))) for k in range(count))
        ]
    logs, end = [mpmath.log(r) for r in ratios], mpmath.log(target)
    if method is None:
        return [exponential_moment(lagrange(k, logs, (mpf(0), mpf(1))), logs[0], end) for k in range(count)]
    if is_flow:
        times = [r / (1 + r) for r in ratios]
        pieces = mpmath.linspace(start, target, 9)

        def basis(k, rho):
            u = rho / (1 + rho)
            return mpmath.fprod((u - t) / (times[k] - t) for m, t in enumerate(times) if m != k)

        return [mpmath.quad(lambda rho, k=k: basis(k, rho), pieces) for k in range(count)]

    def line(position):
        """The timestep as a line in λ, on the piece from a table entry to the next: its value at λ = 0, and its slope."""
        slope = 1 / (table[position + 1] - table[position])
        return position - table[position] * slope, slope

    def piece(log):
        return min(max(sum(entry <= log for entry in table) - 1, 0), len(table) - 2)

    times = [mpmath.polyval(line(piece(log))[::-1], log) for log in logs]
    knots = sorted({logs[0], end} | {entry for entry in table if min(end, logs[0]) < entry < max(end, logs[0])})
    return [
        sum(
            (-1 if end < logs[0] else 1) * exponential_moment(lagrange(k, times, line(piece((a + b) / 2))), a, b)
            for a, b in zip(knots, knots[1:], strict=False)
        )
        for k in range(count)
    ]


def record(method, order, n, arguments):
    config = {"solver_order": order, "lower_order_final": False, **arguments}
    scheduler = diffusers.DEISMultistepScheduler(**config)
    scheduler.set_timesteps(n)
    is_flow = config.get("use_flow_sigmas", False)
    sigmas = [mpf(float(s)) for s in scheduler.sigmas]
    alphas = scheduler.alphas_cumprod.numpy().astype(np.float32)
    table = [mpmath.log(mpf(float(s))) for s in np.sqrt((1 - alphas) / alphas)]
    steps = []
    for i in range(n):
        if sigmas[i] == sigmas[i + 1]:
            continue
        levels = [amplitudes(s, is_flow) for s in [sigmas[i + 1]] + [sigmas[i - k] for k in range(min(order, i + 1))]]
        target, *ratios = [S / A for A, S in levels]
        scale = levels[0][0]
        integrals = weights(method, is_flow, table, ratios, target)
        steps.append({"index": i, "a": number(scale / levels[1][0]), "b": [number(scale * integral) for integral in integrals]})
    text = json.dumps(config | ({"diffusion_scheduling_method": method} if method else {}))
    return {"config_text": text, "sigmas": [number(s) for s in sigmas], "coefficients": steps}


records = [record(method, order, n, run) for method, orders in ORDERS.items() for order in orders for n, run in RUNS]
path = Path(__file__).parent / "deis_methods.json"
lines = ",\n".join(json.dumps(each, separators=(",", ":")) for each in records)
path.write_text(f'{{"records":[\n{lines}\n]}}\n')
print(f"{path.name}: {len(records)} records, {path.stat().st_size} bytes")

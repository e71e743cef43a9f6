# SPDX-License-Identifier: Apache-2.0
"""Binarisers: values and gradients are the closed formulas of their sources, corners included."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from algos.binary import BINARISERS
from algos.binary.binariser import Binariser
from algos.binary.biper import BiPer
from algos.binary.bitnet import BitNet
from algos.binary.hbnn import Hbnn
from algos.binary.irnet import IrNet
from algos.binary.ovsw import Ovsw
from algos.binary.recu import Recu
from algos.binary.reste import Reste

torch.set_num_threads(1)

Array = NDArray[np.float64]
CORNERS = (0.0, -0.0, 1e-30, -1e-30, 0.05, -0.1, 0.1, 0.10001, -0.7, 1.0, -1.0, 1.00001, 1.5, -1.6)


def _weight(seed: int = 0, n: int = 4) -> Tensor:
    drawn = np.random.default_rng(seed).standard_normal((n, 3, 2, 2)) * 0.3
    return torch.tensor(drawn, dtype=torch.float64).requires_grad_()


def _made(name: str, weight: Tensor) -> Binariser:
    return BINARISERS[name](weight.detach(), torch.Generator().manual_seed(0))


def _gradient(function: Callable[[Tensor], Tensor], x: Tensor, g: Array) -> Array:
    """Return the gradient by x of sum(function(x) * g)."""
    (found,) = torch.autograd.grad((function(x) * torch.tensor(g)).sum(), x)
    return found.numpy()


def _numeric(function: Callable[[Array], Array], x: Array, g: Array) -> Array:
    """Return the same of a smooth function by central differences."""
    found = np.empty_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-6
        found[index] = ((function(x + step) - function(x - step)) * g).sum() / 2e-6
    return found


def _sign(x: Array) -> Array:
    return np.where(x >= 0, 1.0, -1.0)


def _upstream(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(9).standard_normal(shape)


def _standardised(w: Array, eps: float) -> Array:
    flat = w.reshape(len(w), -1)
    centred = flat - flat.mean(axis=1, keepdims=True)
    variance = (centred**2).sum(axis=1, keepdims=True) / (flat.shape[1] - 1)
    return (centred / np.sqrt(variance + eps)).reshape(w.shape)


@pytest.mark.parametrize("name", BINARISERS)
def test_zero_is_plus_one(name: str):
    """sign(0) = +1, of weights of a filter that is 0 throughout and of inputs; -0.0 too."""
    weight = torch.zeros(2, 3, 1, 1)
    rule = _made(name, weight)
    rule.begin(1.0)
    zeros = torch.tensor([[0.0, -0.0, 0.0], [0.0, -0.0, -0.0]])
    assert torch.equal(rule.activation(zeros), torch.ones(2, 3))
    expected = torch.zeros(2, 3, 1, 1) if rule.ternary else torch.ones(2, 3, 1, 1)
    assert torch.equal(rule.signs(zeros[:, :, None, None]), expected)


@pytest.mark.parametrize("name", BINARISERS)
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_values_are_signs(name: str, progress: float):
    """Weights and inputs are -1 or +1 (or 0 where ternary), and all gradients are finite."""
    weight = _weight()
    rule = _made(name, weight)
    weight = rule.start(weight.detach()).requires_grad_()
    rule.begin(progress)
    allowed = {-1.0, 0.0, 1.0} if rule.ternary else {-1.0, 1.0}
    assert set(rule.signs(weight).unique().tolist()) == allowed
    x = torch.tensor([CORNERS, CORNERS[::-1]], dtype=torch.float64, requires_grad=True)
    assert torch.equal(rule.activation(x), torch.where(x >= 0, 1.0, -1.0).to(x))
    for function, at in ((rule.weight, weight), (rule.activation, x)):
        assert np.isfinite(_gradient(function, at, _upstream(tuple(at.shape)))).all()
    assert rule.scale(weight).shape == (4,)
    assert bool(torch.isfinite(rule.scale(weight)).all())


@pytest.mark.parametrize("name", ["ste", "hbnn", "bitnet"])
def test_clipped_straight_through(name: str):
    """Inputs: the gradient where abs(x) <= 1, both ends included; the baseline's weights alike."""
    x = torch.tensor([CORNERS], dtype=torch.float64, requires_grad=True)
    g = _upstream((1, len(CORNERS)))
    expected = g * (np.abs(np.array([CORNERS])) <= 1)
    rule = _made(name, _weight())
    assert np.array_equal(_gradient(rule.activation, x, g), expected)
    if name == "ste":
        assert np.array_equal(_gradient(rule.weight, x, g), expected)
        beyond = torch.tensor([[2.0, -0.5]])
        rule.settle(beyond)
        assert torch.equal(beyond, torch.tensor([[1.0, -0.5]]))


@pytest.mark.parametrize("name", ["recu", "ovsw", "biper"])
def test_polynomial_gradient_over_the_deviation(name: str):
    """Inputs a: sign(z), z = a / std of the sample, with max(0, 2 - 2 |z|) by z, std included."""
    a = np.random.default_rng(3).standard_normal((2, 5, 2, 2)) * [[[[3.0]]], [[[0.2]]]]
    g = _upstream(a.shape)

    def z(x: Array) -> Array:
        return x / x.reshape(2, -1).std(axis=1, ddof=1).reshape(2, 1, 1, 1)

    slope = np.maximum(0, 2 - 2 * np.abs(z(a)))
    assert (slope == 0).any()
    found = _gradient(_made(name, _weight()).activation, torch.tensor(a).requires_grad_(), g)
    assert np.allclose(found, _numeric(z, a, g * slope), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_reste(progress: float):
    """The power function's slope, the secant's near 0, nothing past 1.5; o from 1 to 3."""
    rule = _made("reste", _weight())
    assert isinstance(rule, Reste)
    rule.begin(progress)
    o = 1 + (1 - math.cos(math.pi * progress / 2)) * 2
    assert rule.o == pytest.approx({0.0: 1.0, 1.0: 3.0}.get(progress, o))
    x = np.array([CORNERS])
    magnitude = np.abs(x)
    with np.errstate(divide="ignore"):
        slope = np.where(
            magnitude <= 0.1, 0.1 ** (1 / o) / 0.1, magnitude ** ((1 - o) / o) / o
        ) * (magnitude <= 1.5)  # fmt: skip
    g = _upstream(x.shape)
    for function in (rule.weight, rule.activation):
        found = _gradient(function, torch.tensor(x).requires_grad_(), g)
        assert np.allclose(found, g * slope, rtol=1e-12)
    weight = _weight()
    assert np.allclose(rule.scale(weight).numpy(), np.abs(weight.detach().numpy()).mean())


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_recu(progress: float):
    """Sign of the clamped, standardised weight; the gradient passes inside -Q..Q alone."""
    weight = _weight(n=6)
    rule = _made("recu", weight)
    assert isinstance(rule, Recu)
    rule.begin(progress)
    tau = 0.85 + 0.14 * (math.e**progress - 1) / (math.e - 1)  # 0.85 at 0, 0.99 at 1
    assert rule.tau == pytest.approx(tau)
    w = weight.detach().numpy()

    def scaled(x: Array) -> Array:
        return _standardised(x, 1e-5) * (2 * math.sqrt(2))

    q = -np.abs(scaled(w)).mean() * math.log(2 - 2 * tau)
    inside = np.abs(scaled(w)) <= q
    assert not inside.all() or progress > 0
    assert np.array_equal(rule.signs(weight).numpy(), _sign(scaled(w)))
    g = _upstream(w.shape)
    found = _gradient(rule.weight, weight, g)
    assert np.allclose(found, _numeric(scaled, w, g * inside), rtol=1e-5, atol=1e-7)
    alpha = rule.scale(weight)
    assert alpha.requires_grad
    assert 0 <= float(alpha.detach().min()) <= float(alpha.detach().max()) < 1
    assert next(rule.parameters()) is alpha


@pytest.mark.parametrize("progress", [0.0, 0.75, 1.0])
def test_irnet(progress: float):
    """EDE: k t (1 - tanh(t x)^2), t from 1e-3 to 10; scales are powers of two."""
    weight = _weight()
    rule = _made("irnet", weight)
    assert isinstance(rule, IrNet)
    rule.begin(progress)
    t = 10.0 ** (-3 + 4 * progress)
    k = 1 / t if t < 1 else 1.0
    w, g = weight.detach().numpy(), _upstream((4, 3, 2, 2))

    def standardised(x: Array) -> Array:
        return _standardised(x, 0.0)

    def ede(x: Array) -> Array:
        return k * t * (1 - np.tanh(t * x) ** 2)

    assert np.array_equal(rule.signs(weight).numpy(), _sign(standardised(w)))
    found = _gradient(rule.weight, weight, g)
    expected = _numeric(standardised, w, g * ede(standardised(w)))
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-7)
    x = np.array([CORNERS])
    found = _gradient(rule.activation, torch.tensor(x).requires_grad_(), _upstream(x.shape))
    assert np.allclose(found, _upstream(x.shape) * ede(x), rtol=1e-10)
    mean = np.abs(standardised(w)).reshape(4, -1).mean(axis=1)
    assert np.array_equal(rule.scale(weight).numpy(), 2.0 ** np.round(np.log2(mean)))


def test_biper():
    """Real sin(20 w) first, then its sign with 20 cos(20 w); the penalty is tau mean sin^2."""
    weight = _weight()
    rule = _made("biper", weight)
    assert isinstance(rule, BiPer)
    w, g = weight.detach().numpy(), _upstream((4, 3, 2, 2))
    for progress, tau in ((0.0, 0.037), (0.66, 0.037), (0.67, 0.0468), (1.0, 0.0468)):
        rule.begin(progress)
        wave = np.sin(20 * w)
        expected = _sign(wave) if progress > 0.66 else wave
        assert np.allclose(rule.weight(weight).detach().numpy(), expected)
        assert np.array_equal(rule.signs(weight).numpy(), _sign(wave))
        assert np.allclose(_gradient(rule.weight, weight, g), g * 20 * np.cos(20 * w))
        assert float(rule.penalty(weight).detach()) == pytest.approx(tau * (wave**2).mean())
    started = rule.start(weight.detach())
    limit = 3 * w.std(ddof=1)
    assert np.allclose(np.sin(20 * started.numpy()), np.clip(w / limit, -1, 1))


def test_ovsw_raises_small_gradients_and_decays_silent_weights():
    """AGS by filter, norms floored; SAD on weights whose sign has not changed for long."""
    weight = _weight()
    with torch.no_grad():
        weight[2] = 0.0
    rule = _made("ovsw", weight)
    assert isinstance(rule, Ovsw)
    w = weight.detach().numpy().copy()
    g = _upstream(w.shape) * np.array([1e-3, 1.0, 1e-9, 0.0]).reshape(4, 1, 1, 1)
    weight.grad = torch.tensor(g)
    rule.adjust(weight)
    ratio = np.maximum(np.sqrt((g**2).sum((1, 2, 3))), 1e-6) / np.maximum(
        np.sqrt((w**2).sum((1, 2, 3))), 1e-3
    )
    scaled = g * np.maximum(1, 0.04 / ratio).reshape(4, 1, 1, 1)
    assert np.allclose(weight.grad.numpy(), scaled + 9e-4 * w, rtol=1e-9, atol=1e-15)
    assert np.array_equal(scaled[1], g[1])
    # A weight that flips is not silent for 2300 steps: (1 - 0.999) 0.999^n < 1e-4.
    with torch.no_grad():
        weight[1, 0, 0, 0] *= -1
    steps = 0
    while steps < 3000:
        weight.grad = torch.ones_like(weight)
        rule.adjust(weight)
        silent = float(rule.state[1, 0, 0, 0]) < 1e-4
        moved = float((weight.grad[1, 0, 0, 0] - weight.grad[1, 0, 0, 1]).detach())
        difference = 9e-4 * float((silent * weight[1, 0, 0, 0] - weight[1, 0, 0, 1]).detach())
        if steps in (0, 5):
            assert moved == pytest.approx(difference)
        if silent:
            break
        steps += 1
    assert steps == math.ceil(math.log(0.1) / math.log(0.999))
    fresh = _weight()
    w = fresh.detach().numpy()
    expected = np.abs(_standardised(w, 1e-5)).reshape(4, -1).mean(axis=1)
    assert np.allclose(rule.scale(fresh).numpy(), expected)
    assert np.array_equal(_gradient(rule.weight, fresh, g), g)


def test_hbnn_has_the_jacobian_of_the_exponential_map():
    """J = (tanh(r)/r)(I - u u^T) + (1 - tanh^2 r) u u^T for each filter; signs are those of v."""
    weight = _weight()
    with torch.no_grad():
        weight[1] *= 20
        weight[2] *= 1e-3
    rule = _made("hbnn", weight)
    assert isinstance(rule, Hbnn)
    v, g = weight.detach().numpy().reshape(4, -1), _upstream((4, 3, 2, 2))
    assert np.array_equal(rule.signs(weight).numpy().reshape(4, -1), _sign(v))
    found = _gradient(rule.weight, weight, g).reshape(4, -1)
    for n in range(4):
        r = np.sqrt((v[n] ** 2).sum())
        along = np.outer(v[n], v[n]) / r**2
        jacobian = np.tanh(r) / r * (np.eye(len(along)) - along) + (1 - np.tanh(r) ** 2) * along
        assert np.allclose(found[n], jacobian.T @ g[n].reshape(-1), rtol=1e-9, atol=1e-12)


def test_bitnet_rounds_by_the_median():
    """clip(round(w / s), -1, 1), ties to even, s the lower median; the gradient of q s is g."""
    values = [0.5, -0.2, 0.75, 1.0, -1.5, 0.3, -0.49999, 2.0]
    weight = torch.tensor(values, dtype=torch.float64).reshape(2, 4, 1, 1).requires_grad_()
    rule = _made("bitnet", weight)
    assert isinstance(rule, BitNet)
    s = 0.5  # of 0.2, 0.3, 0.49999, 0.5, 0.75, 1.0, 1.5, 2.0
    assert torch.equal(rule.scale(weight), torch.full((2,), s, dtype=torch.float64))
    codes = [1, 0, 1, 1, -1, 1, -1, 1]
    assert rule.signs(weight).flatten().tolist() == codes
    tie = torch.tensor([0.25, -0.25, 0.5, 0.7], dtype=torch.float64).reshape(1, 4, 1, 1)
    assert rule.signs(tie).flatten().tolist() == [1, -1, 1, 1]  # s = 0.25
    half = torch.tensor([0.5, 1.0, -0.5, 1.0, 3.0], dtype=torch.float64).reshape(1, 5, 1, 1)
    assert rule.signs(half).flatten().tolist() == [0, 1, 0, 1, 1]  # s = 1, +-0.5 to even
    g = _upstream((2, 4, 1, 1))

    def deployed(x: Tensor) -> Tensor:
        return rule.weight(x) * rule.scale(x).reshape(-1, 1, 1, 1)

    assert np.allclose(_gradient(deployed, weight, g), g)
    assert float(rule.scale(torch.zeros(1, 2, 1, 1))[0]) == pytest.approx(1e-5)

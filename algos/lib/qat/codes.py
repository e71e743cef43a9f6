# SPDX-License-Identifier: Apache-2.0
"""Codes of weights and activations, with the gradients of rounding passed straight through.

Weights follow DoReFa with the scale adjustment of SAT (read in the public repository AdaBits,
`models/quant_ops.py`), on the symmetric grid. Activations are PACT's: a learnable clip.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor


def rounded(x: Tensor) -> Tensor:
    """Round to nearest, ties to even; the gradient is passed straight through."""
    return x + (torch.round(x) - x).detach()


def weight_codes(weight: Tensor, bits: int) -> Tensor:
    """Return the signed codes of a weight tensor, as floats.

    Parameters
    ----------
    weight : float[N, ...]
        Trained values.
    bits : int
        Of a code, sign included.

    Returns
    -------
    float[N, ...]
        RNE(q * tanh(w) / max |tanh(w)|) with q = 2**(bits - 1) - 1; in -q..q, the largest
        magnitude is q. The maximum counts as a constant in the gradient.
    """
    top = (1 << (bits - 1)) - 1
    bounded = torch.tanh(weight)
    largest = bounded.detach().abs().max().clamp_min(torch.finfo(weight.dtype).tiny)
    return rounded(bounded / largest * top)


def constant_scale(codes: Tensor) -> Tensor:
    """Return what one weight code stands for, a scalar: SAT's scale adjustment, constant mode.

    The weights get the deviation 1 / sqrt(n), n = product of the axes but the inputs', so that the
    outputs' variance neither grows nor shrinks from layer to layer. A constant in the gradient.
    """
    fan = codes.numel() / codes.shape[1]
    return 1.0 / (fan**0.5 * _deviation(codes))


def deviation_scale(codes: Tensor, weight: Tensor) -> Tensor:
    """Return what one weight code stands for: codes get the float weights' deviation (SAT)."""
    return weight.detach().std(correction=0) / _deviation(codes)


def _deviation(codes: Tensor) -> Tensor:
    return codes.detach().std(correction=0).clamp_min(1e-6)


def activation_codes(values: Tensor, step: Tensor, *, low: int, high: int) -> Tensor:
    """Return the codes of activations, clamp(RNE(x / step), low, high), as floats.

    codes * step has PACT's gradient by the clip as SAT corrects it: what rounding adds inside the
    range, the bound outside. Gradients by `values` vanish outside.
    """
    return rounded((values / step).clamp(low, high))


class _Instead(torch.autograd.Function):
    """A value in the place of another, whose gradient it gets, times a factor."""

    @staticmethod
    def forward(ctx: Any, digital: Tensor, value: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return grad_outputs[0] * factor, None, None


def instead(digital: Tensor, value: Tensor, factor: Tensor) -> Tensor:
    """Return `value`; its gradient, times a factor, goes to `digital`."""
    apply = cast("Callable[..., Tensor]", _Instead.apply)  # pyright: ignore[reportUnknownMemberType]
    return apply(digital, value, factor)

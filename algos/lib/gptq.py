# SPDX-License-Identifier: Apache-2.0
"""Hessian compensation: round column after column and repair each error in those that follow.

Source: Frantar et al., "GPTQ", ICLR 2023; act-order and static groups as in HandH1998/QQQ
`gptq/gptq.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from algos.lib.quantise import Grid, nearest_codes

BLOCK = 128


class Hessian:
    """Running mean of 2 x xᵀ over calibration rows, and of x itself.

    Parameters
    ----------
    columns : int
        K, the length of a row.

    Attributes
    ----------
    matrix : float64[K, K]
        (2 / rows) * sum of x xᵀ.
    mean : float64[K]
        Mean row.
    rows : int
        Rows seen.
    """

    def __init__(self, columns: int) -> None:
        self.matrix = torch.zeros(columns, columns, dtype=torch.float64)
        self.mean = torch.zeros(columns, dtype=torch.float64)
        self.rows = 0

    def add(self, rows: Tensor) -> None:
        """Add rows float[..., K]."""
        flat = rows.reshape(-1, rows.shape[-1])
        if flat.shape[0] == 0:
            return
        total = self.rows + flat.shape[0]
        # float32 products of one batch are accurate enough; the sum over batches is float64.
        product = (flat.float().t() @ flat.float()).double()
        self.matrix *= self.rows / total
        self.matrix += product * (2.0 / total)
        self.mean *= self.rows / total
        self.mean += flat.double().sum(dim=0) / total
        self.rows = total

    def dead(self) -> Tensor:
        """Return which inputs were zero in every row, bool[K]."""
        return torch.diagonal(self.matrix) == 0


def damped(hessian: Tensor, damping: float) -> Tensor:
    """Return H + damping * mean(diag H) * I, with 1 on the diagonal of dead inputs."""
    matrix = hessian.double().clone()
    diagonal = torch.diagonal(matrix)
    diagonal[diagonal == 0] = 1.0
    diagonal += damping * diagonal.mean()
    return matrix


def _inverse_factor(matrix: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the inverse of a positive definite matrix."""
    return torch.as_tensor(np.linalg.cholesky(np.linalg.inv(matrix.numpy()), upper=True))


def compensated_codes(
    weight: Tensor,
    hessian: Tensor,
    grid: Grid,
    *,
    act_order: bool = True,
    damping: float = 0.01,
    block: int = BLOCK,
) -> Tensor:
    """Quantise a weight matrix so that the error of its products, not of its entries, is small.

    Parameters
    ----------
    weight : float[N, K]
        The matrix; columns of dead inputs (zero on H's diagonal) get code 0.
    hessian : float64[K, K]
        `Hessian.matrix` of the inputs.
    grid : Grid
        Static: fixed before the first column is rounded, and indexed by the natural column, so that
        act-order needs no permutation at run time.
    act_order : bool
        Visit columns by falling diagonal of H.
    damping : float
        Added to the diagonal, as a fraction of its mean.
    block : int
        Columns repaired at once.

    Returns
    -------
    int8[N, K]
        Codes in natural column order.
    """
    columns = weight.shape[1]
    dead = torch.diagonal(hessian) == 0
    work = weight.double().clone()
    work[:, dead] = 0.0
    step = grid.per_column(columns).double()
    matrix = damped(hessian, damping)
    order = torch.arange(columns)
    if act_order:
        order = torch.argsort(torch.diagonal(hessian), descending=True, stable=True)
    work, step = work[:, order], step[:, order]
    factor = _inverse_factor(matrix[order][:, order])
    codes = torch.zeros_like(work)
    for first in range(0, columns, block):
        last = min(first + block, columns)
        errors = torch.zeros(work.shape[0], last - first, dtype=torch.float64)
        for i in range(first, last):
            codes[:, i] = nearest_codes(work[:, i], step[:, i], grid.low, grid.high)
            error = (work[:, i] - codes[:, i] * step[:, i]) / factor[i, i]
            work[:, i:last] -= error[:, None] * factor[i, i:last]
            errors[:, i - first] = error
        work[:, last:] -= errors @ factor[first:last, last:]
    natural = torch.empty_like(codes)
    natural[:, order] = codes
    return natural.to(torch.int8)


def output_error(weight: Tensor, approximation: Tensor, hessian: Tensor) -> float:
    """Return the mean squared change of a row of outputs, tr(D H Dᵀ) / 2, D the difference."""
    difference = weight.double() - approximation.double()
    return 0.5 * float(((difference @ hessian) * difference).sum())

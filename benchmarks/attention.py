# SPDX-License-Identifier: Apache-2.0
"""Speed of the attention simulator: ``python -m benchmarks.attention [--json]``.

Decode rows: one query of one head against 1024 keys of 8 bits, D = 64, 307 values kept, on the
default engine. Seconds are of the thread, the best of several runs, without compilation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lib import results
from benchmarks.lib.results import Result, best_alternating
from cosil.engines.attention import AttentionSpec, log_table, pow_table
from cosil.lowering.attention import Operands, RowCommand
from sim.attention import run

N, D, VALUES, HEADS, LAYERS = 1024, 64, 307, 16, 24
"""One token of SpAtten's GPT-2 medium: 24 layers, 16 heads of 64; 307 of 1024 values."""

ROWS = HEADS * LAYERS
RUNS = 25
MULT, SHIFT = 30_000, 35
OUT_MULT, OUT_SHIFT = 30_000, 30


@cache
def workload() -> tuple[list[RowCommand], Operands]:
    """Return rows, each with keys and values of its own."""
    rng = np.random.default_rng(0)
    size = (ROWS * N, D)
    operands = Operands(
        rng.integers(-2048, 2048, (ROWS, D)).astype(np.int16),
        aligned(rng.integers(-128, 128, size, dtype=np.int8)),
        np.zeros((0, D), dtype=np.uint8),
        aligned(rng.integers(-128, 128, size, dtype=np.int8)),
    )
    commands = [
        RowCommand(N, VALUES, row * N, 0, row * N, row % HEADS, MULT, SHIFT, OUT_MULT, OUT_SHIFT)
        for row in range(ROWS)
    ]
    return commands, operands


def aligned(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return a copy that begins at a page, so that a row of 64 codes is one line of the caches."""
    page = 4096
    room = np.empty(codes.nbytes + page, dtype=np.int8)
    first = -room.ctypes.data % page
    copy = room[first : first + codes.nbytes].reshape(codes.shape)
    copy[...] = codes
    return copy


# -- the same mathematics in NumPy -----------------------------------------------------------------


POW = np.array(pow_table(), dtype=np.int64)
LOG = np.array(log_table(), dtype=np.int64)


def numpy_rows(operands: Operands) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Return outputs and the tokens' importance, layer by layer, which suits the caches best."""
    keys, values = (m.reshape(ROWS, N, D) for m in (operands.key_msb, operands.value))
    output = np.empty((ROWS, D), dtype=np.int16)
    importance = np.zeros(N, dtype=np.int64)
    for first in range(0, ROWS, HEADS):
        layer = slice(first, first + HEADS)
        output[layer], added = numpy_layer(operands.query[layer], keys[layer], values[layer])
        importance += added
    return output, importance


def numpy_layer(
    query: NDArray[np.int16], keys: NDArray[np.int8], values: NDArray[np.int8]
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Return a layer's outputs and what it adds, all heads in one array operation per step."""
    # 2**11 * 2**7 * 64 = 2**24: exact in float32.
    product = np.matmul(keys.astype(np.float32), query.astype(np.float32)[:, :, None])[..., 0]
    score = product.astype(np.int64) << 4
    distance = (score.max(axis=1, keepdims=True) - score) * MULT + (1 << (SHIFT - 1))
    distance = np.minimum(distance >> SHIFT, 8191)
    total = (POW[distance & 255] >> (distance >> 8)).sum(axis=1)
    leading = np.frexp(total.astype(np.float64))[1].astype(np.int64) - 1
    level = ((leading - 24) << 8) + LOG[total >> (leading - 10) & 1023]
    u = distance + level[:, None]
    shift = 2 + (u >> 8)
    probability = np.minimum((POW[u & 255] + (1 << (shift - 1))) >> shift, (1 << 22) - 1)
    importance = probability.sum(axis=0)
    # Distance and position in one number have no ties, so a partition finds the kept ones.
    ranked = distance * N + np.arange(N)
    kept = np.sort(np.argpartition(ranked, VALUES - 1, axis=1)[:, :VALUES], axis=1)
    row = np.arange(HEADS)[:, None]
    weight = probability[row, kept].astype(np.float64)
    # 2**22 * 2**7 * 307 < 2**53: exact in float64.
    acc = np.matmul(weight[:, None, :], values[row, kept].astype(np.float64))[:, 0]
    output = np.rint(np.ldexp(acc * OUT_MULT, -OUT_SHIFT))
    return np.clip(output, -32768, 32767).astype(np.int16), importance


def products(operands: Operands) -> Callable[[], object]:
    """Return the two products alone: float32, dense keys, the kept values, nothing converted."""
    rng = np.random.default_rng(1)
    keys = operands.key_msb.reshape(ROWS, N, D).astype(np.float32)
    query = operands.query.astype(np.float32)[:, :, None]
    values = operands.value.reshape(ROWS, N, D)[:, :VALUES].astype(np.float32)
    weights = rng.random((ROWS, 1, VALUES), dtype=np.float32)

    def both() -> object:
        return np.matmul(keys, query), np.matmul(weights, values)

    return both


# -- measured --------------------------------------------------------------------------------------


def simulate() -> Any:
    """Run the workload on the default engine."""
    commands, operands = workload()
    return run(AttentionSpec(), commands, operands)


@cache
def seconds() -> tuple[float, float, float]:
    """Return the seconds of the simulator (checks, values, cycles, counts), NumPy, BLAS alone."""
    _, operands = workload()
    calls = simulate, lambda: numpy_rows(operands), products(operands)
    ours, vectorised, blas = best_alternating(*calls, runs=RUNS)
    return ours, vectorised, blas


def numpy_vs_sim() -> Result:
    """Time of the NumPy implementation over that of the simulator, which counts cycles too."""
    _, operands = workload()
    result = simulate()
    output, importance = numpy_rows(operands)
    if not (
        np.array_equal(output, result.y) and np.array_equal(importance, result.state.importance)
    ):
        raise AssertionError("the NumPy implementation and the simulator differ")
    ours, baseline, _ = seconds()
    note = f"{ROWS} decode rows, n = {N}, D = {D}, {VALUES} values; outputs and importance equal"
    return Result("numpy_vs_sim", baseline / ours, "x", "higher", 5.0, ours, baseline, note)


def sim_vs_products() -> Result:
    """Time of the simulator over that of the two BLAS products alone."""
    ours, _, baseline = seconds()
    note = f"float32, {N} keys and {VALUES} values a row, operands already converted and gathered"
    return Result("sim_vs_products", ours / baseline, "x", "lower", None, ours, baseline, note)


def rows_per_second() -> Result:
    """Rows that the simulator computes and times in a second."""
    ours, _, _ = seconds()
    note = f"{ours / ROWS * 1e6:.1f} us a row; {simulate().cycles / ROWS:.1f} cycles a row"
    return Result("rows_per_second", ROWS / ours, "1/s", "higher", None, None, None, note)


BENCHMARKS: dict[str, Callable[[], Result]] = {
    "numpy_vs_sim": numpy_vs_sim,
    "sim_vs_products": sim_vs_products,
    "rows_per_second": rows_per_second,
}


if __name__ == "__main__":
    results.main("attention", __doc__, BENCHMARKS, dict)

# SPDX-License-Identifier: Apache-2.0
"""Speed of the binary engines: ``python -m benchmarks.binary [--json] [--only NAME]``.

One layer, 1024 vectors, inputs and outputs: from float32 activations, whose signs are packed in the
measured time, to outputs, cycles and counts; weights are packed before. Ratios are to the rate of a
NumPy float32 product of the same shape, both on one thread in one run, alternating, as time that
the thread is busy.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import llvmlite.binding as llvm  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from numpy.typing import NDArray

from benchmarks.lib import results
from benchmarks.lib.results import Result, best_alternating
from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import FLAG_BASE, FLAG_COLUMNS, FLAG_WEIGHTS, Job, Operands
from cosil.packed import bits
from sim.lib.run import Run
from sim.xnor import run

SIZE = 1024
REPETITIONS = 40

BAR_WITH_COUNT, BAR_WITHOUT = 8, 4
"""Times the product's rate where the processor counts ones in vectors (AVX-512 VPOPCNTDQ), and
where it does not."""

Layer = tuple[XnorSpec, Job, Operands]


def layer(weights: Literal["binary", "ternary"], epilogue: Literal["threshold", "fixed"]) -> Layer:
    """Return the layer on an array of 32 x 64, weights and parameters of seed 0, and no vectors."""
    rng = np.random.default_rng(0)
    spec = XnorSpec(32, 64, weights, epilogue, max_inputs=SIZE, max_outputs=SIZE)
    nonzero = np.ones((SIZE, SIZE), dtype=np.bool_)
    if weights == "ternary":
        nonzero = rng.random((SIZE, SIZE)) < 2 / 3
    planes = [bits.pack(nonzero & (rng.random((SIZE, SIZE)) < 0.5)), bits.pack(nonzero)]
    if epilogue == "threshold":
        e = (rng.integers(-32, 33, SIZE) & 0xFFFFFFFF).astype(np.uint64)
        e |= rng.integers(2, size=SIZE, dtype=np.uint64) << np.uint64(54)
    else:
        # mult 1, shift 4: the sums themselves.
        e = np.full(SIZE, 1 << 32 | 4 << 48, dtype=np.uint64)
    operands = Operands(
        x=np.zeros((0, SIZE // 64), dtype=np.uint64),
        border=np.zeros(SIZE, dtype=np.uint8),
        w=np.stack(planes[: spec.weight_planes], axis=1),
        base=nonzero.sum(axis=1, dtype=np.uint16)[None],
        e=e,
    )
    return spec, Job(SIZE, SIZE, SIZE, flags=FLAG_WEIGHTS | FLAG_BASE | FLAG_COLUMNS), operands


def from_activations(subject: Layer, x: NDArray[np.float32]) -> Run:
    """Pack the signs of activations and run the layer."""
    spec, job, operands = subject
    return run(spec, job, replace(operands, x=bits.pack(x >= 0)))


def check(subject: Layer, x: NDArray[np.float32], found: Run) -> str:
    """Stop unless reference and stepped model give the outputs; return what was found equal."""
    from algos.reference.xnor import reference  # torch takes seconds to import

    spec, job, operands = subject
    operands = replace(operands, x=bits.pack(x >= 0))
    stepped = run(spec, job, operands, step=True)
    same = (
        np.array_equal(found.y, reference(spec, job, operands).numpy())
        and np.array_equal(found.y, stepped.y)
        and (found.cycles, found.counts) == (stepped.cycles, stepped.counts)
    )
    if not same:
        raise RuntimeError("xnor: reference, stepped and fast model must agree on the layer")
    return f"outputs are the reference's, {found.cycles} cycles and outputs the stepped model's"


def counts_ones() -> bool:
    """Whether the processor counts ones in vectors of words."""
    return bool(llvm.get_host_cpu_features().get("avx512vpopcntdq"))


def xnor_vs_matmul(
    name: str,
    weights: Literal["binary", "ternary"],
    epilogue: Literal["threshold", "fixed"],
    bar: float | None,
) -> Result:
    """Compare the layer's rate with that of a float32 product of its shape."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((SIZE, SIZE), dtype=np.float32)
    w = rng.standard_normal((SIZE, SIZE), dtype=np.float32)
    subject = layer(weights, epilogue)
    equal = check(subject, x, from_activations(subject, x))
    ours, baseline = best_alternating(
        lambda: from_activations(subject, x), lambda: x @ w, runs=REPETITIONS
    )
    rate, product = (SIZE**3 / seconds / 1e9 for seconds in (ours, baseline))
    instruction = "with" if counts_ones() else f"{BAR_WITHOUT} as this processor is without"
    note = f"bar {instruction} AVX-512 VPOPCNTDQ; " if bar else ""
    note = (
        f"{note}{weights} weights, {epilogue}, signs packed in the time; G MAC/s, best of "
        f"{REPETITIONS}; {equal}"
    )
    return Result(name, rate / product, "x", "higher", bar, rate, product, note)


def _binary() -> Result:
    bar = BAR_WITH_COUNT if counts_ones() else BAR_WITHOUT
    return xnor_vs_matmul("xnor_vs_matmul", "binary", "threshold", bar)


BENCHMARKS: dict[str, Callable[[], Result]] = {
    "xnor_vs_matmul": _binary,
    "xnor_ternary_vs_matmul": lambda: xnor_vs_matmul(
        "xnor_ternary_vs_matmul", "ternary", "threshold", None
    ),
    "xnor_fixed_vs_matmul": lambda: xnor_vs_matmul("xnor_fixed_vs_matmul", "binary", "fixed", None),
}


def versions() -> dict[str, str]:
    """Return what the figures depend on besides the machine."""
    return {name: importlib.metadata.version(name) for name in ("torch", "llvmlite")}


if __name__ == "__main__":
    results.main("binary", __doc__, BENCHMARKS, versions)

# SPDX-License-Identifier: Apache-2.0
"""Speed of the PIM simulator: ``python -m benchmarks.pim [--json] [--only NAME]``.

One layer, 512 inputs and outputs, 256 vectors, 4-bit weights and activations in 1-bit slices, 128
rows a group: 8.4 million conversions, none skipped, from packed operands to outputs, cycles and
counts. Ratios are to a NumPy float32 product of the same shape, both on one thread in one run,
alternating, as time that the thread is busy. Accuracy is `benchmarks.pim_accuracy`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Literal

import numpy as np

from benchmarks.lib import results
from benchmarks.lib.results import Result, thread_seconds_of
from cosil.engines.pim import PimSpec
from cosil.lowering.pim import FLAG_WIDE, Job, Operands, macro_transfer
from cosil.lowering.pim_transfer import Grid, noise_table, synthetic, with_errors
from cosil.packed import bitplane
from cosil.packed.decomposition import DECOMPOSITIONS, Decomposition, encoding, planes
from cosil.packed.generators import stream_state
from sim.pim import PimRun, run

M, K, N, ROWS = 256, 512, 512, 128
REPETITIONS = 25

Layer = tuple[PimSpec, Job, Operands]


def layer(
    decomposition: Decomposition = "bit_serial",
    *,
    adc_bits: int = 6,
    noise_bits: int = 0,
    grid: Literal["A", "B"] = "B",
    errors: bool = True,
    rows: int = ROWS,
    slice_bits: int = 1,
) -> Layer:
    """Return the layer on a macro that holds it in one tile, seed 0; noise of 0.5 LSB."""
    rng = np.random.default_rng(0)
    spec = PimSpec(
        decomposition, rows, columns=planes(decomposition, 4) * N, groups=-(-K // rows),
        slice_bits=slice_bits, adc_bits=adc_bits, noise_bits=noise_bits,
    )  # fmt: skip
    ideal = Grid(decomposition, 4, slice_bits, rows, adc_bits, grid)
    tables = ideal.table()[None]
    if errors:
        drawn = synthetic(ideal, spec.columns, gain_sigma=0.02, offset_sigma=0.3, inl_peak=1.0)
        tables = with_errors(ideal, drawn)
    codes = rng.integers(-7, 8, (N, K))
    weight = bitplane.encode(codes, encoding=encoding(decomposition), bits=4, rows=rows)
    # mult 1, shift 4: the accumulators themselves.
    columns = np.full(N, 1 << 32 | 4 << 48, dtype=np.uint64)
    streams = range(spec.adcs if noise_bits else 0)
    operands = Operands(
        x=rng.integers(0, 16, (M, K), dtype=np.uint8),
        w=weight.words,
        transfer=macro_transfer(spec, tables, rows),
        noise=noise_table(0.5, noise_bits) if noise_bits else np.zeros(0, dtype=np.int16),
        states=np.array([stream_state(j) for j in streams], dtype=np.uint32),
        e=columns,
    )
    return spec, Job(M, K, N, rows, FLAG_WIDE | (7 if noise_bits else 3)), operands


def check(subject: Layer, found: PimRun) -> str:
    """Stop unless reference and stepped model give the outputs; return what was found equal."""
    from algos.reference.pim import reference  # torch takes seconds to import

    expected = reference(*subject)
    stepped = run(*subject, step=True)
    same = (
        found.y.tolist() == expected.y.tolist() == stepped.y.tolist()
        and found.states.tolist() == expected.states.tolist() == stepped.states.tolist()
        and (found.cycles, found.counts) == (stepped.cycles, stepped.counts)
    )
    if not same:
        raise RuntimeError("pim: reference, stepped and fast model must agree on the layer")
    return f"outputs are the reference's, {found.cycles} cycles and outputs the stepped model's"


def against_matmul(subject: Layer) -> tuple[float, float]:
    """Return the best seconds of the simulator and of a float32 product of the shape."""
    rng = np.random.default_rng(1)
    x, w = rng.random((M, K), dtype=np.float32), rng.random((K, N), dtype=np.float32)
    run(*subject)
    ours = baseline = float("inf")
    for _ in range(REPETITIONS):
        baseline = min(baseline, *(thread_seconds_of(lambda: x @ w) for _ in range(5)))
        ours = min(ours, thread_seconds_of(lambda: run(*subject)))
    return ours, baseline


def ratio(name: str, subject: Layer, bar: float | None, what: str) -> Result:
    """Compare a layer with a product of its shape."""
    equal = check(subject, run(*subject))
    ours, baseline = against_matmul(subject)
    spec = subject[0]
    conversions = M * spec.slices * spec.row_groups(K, subject[1].rows) * N * spec.planes
    note = (
        f"{what}; {M * K * N / ours / 1e9:.2f} G MAC/s, {ours / conversions * 1e9:.2f} ns a "
        f"conversion; {equal}; seconds, best of {REPETITIONS} and {5 * REPETITIONS}"
    )
    return Result(name, ours / baseline, "x", "lower", bar, ours, baseline, note)


def lossless() -> Result:
    """Compare the layer with 8-bit ADCs that lose nothing: outputs are the product itself."""
    subject = layer(adc_bits=8, grid="A", errors=False)
    spec, _, operands = subject
    weight = bitplane_codes(spec, operands)
    exact = np.clip(operands.x.astype(np.int64) @ weight.T, -32768, 32767)
    if run(*subject).y.tolist() != exact.tolist():
        raise RuntimeError("pim: with a lossless ADC the outputs must be the integer product")
    return ratio("pim_lossless_vs_matmul", subject, None, "8-bit ADC, grid A, k = 1, exact product")


def bitplane_codes(spec: PimSpec, operands: Operands) -> np.ndarray:
    """Return the weights, int64[N, K], from their packed bits."""
    words = operands.w[..., None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
    bits = words.astype(np.int64).reshape(N, spec.planes, -1)[..., :K]
    return np.einsum("npk,p->nk", bits, np.array(spec.plane_weights))


def others() -> Result:
    """Show the slowest of three decompositions, two widths of slices and of groups, no noise."""
    found: list[tuple[float, str]] = []
    for decomposition in DECOMPOSITIONS:
        for slice_bits, rows in ((1, 128), (1, 144), (4, 128)):
            subject = layer(decomposition, slice_bits=slice_bits, rows=rows)
            check(subject, run(*subject))
            ours, _ = against_matmul(subject)
            rate = M * K * N / ours / 1e9
            text = f"{decomposition}, {slice_bits}-bit slices, {rows} rows: {rate:.2f}"
            found.append((rate, text))
    value, _ = min(found)
    note = "the slowest of " + "; ".join(text for _, text in found)
    return Result("pim_macs_per_s", value, "G MAC/s", "higher", None, None, None, note)


BENCHMARKS: dict[str, Callable[[], Result]] = {
    "pim_vs_matmul": lambda: ratio(
        "pim_vs_matmul", layer(), 6, "6-bit ADC, grid B, a table with INL for each column"
    ),
    "pim_noise_vs_matmul": lambda: ratio(
        "pim_noise_vs_matmul", layer(noise_bits=8), 30, "the same, noise drawn for each conversion"
    ),
    "pim_lossless_vs_matmul": lossless,
    "pim_macs_per_s": others,
}


def versions() -> dict[str, str]:
    """Return what the figures depend on besides the machine."""
    return {"torch": importlib.metadata.version("torch")}


if __name__ == "__main__":
    results.main("pim", __doc__, BENCHMARKS, versions)

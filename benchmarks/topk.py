# SPDX-License-Identifier: Apache-2.0
"""Radix select against quick-select as published: ``python -m benchmarks.topk [--json]``.

Both engines get the same keys, order and k, one job at a time; cycles are those of the simulator,
which equals the RTL in every cycle (`cosil verify topk`). `select` counts from the transfer of the
last input row to the cycle in which the cut is known, `total` to the transfer of the last output.
With COSIL_DATA also on attention rows of stories260K.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lib import results
from benchmarks.lib.results import Result, thread_seconds_of
from cosil.engines.topk import TopkSpec
from energy_models.lib.technology import TECHNOLOGIES
from energy_models.topk import MODEL
from sim.topk import run

N, K, DRAWS = 1024, 512, 20_000
PUBLISHED_MEAN, PUBLISHED_SD = 258.0, 70.5
"""Cycles of the passes at (1024, 512), 16 lanes, distinct keys, 20,000 draws.

Source: the latency model that SpAtten's authors release (TopKLatencyModel.scala), re-implemented.
"""

VALUE_RATIO = 307 / 1024
"""Part of the values that is kept in SpAtten's released GPT-2 medium workload."""

Table = NDArray[np.void]
Tables = tuple[Table, Table]


def both(jobs: list[tuple[NDArray[Any], int]], **parameters: Any) -> Tables:
    """Return the jobs' cycles on radix and on quick-select, one job at a time."""
    radix = run(TopkSpec("radix", buffers=1, **parameters), jobs).jobs
    return radix, run(TopkSpec("quick_select", buffers=1, **parameters), jobs).jobs


def until(event: str, table: Table) -> NDArray[np.int64]:
    """Return the cycles from the last input to `decided` or `last_output`."""
    return np.asarray(table[event] - table["last_input"], dtype=np.int64)


@cache
def uniform() -> Tables:
    """Run 20,000 draws of 1024 uniform 12-bit keys."""
    rng = np.random.default_rng(0)
    return both([(keys, K) for keys in rng.integers(4096, size=(DRAWS, N))])


def ratio(name: str, event: str, reduce: str, bar: float) -> Result:
    """Compare mean or largest cycles on uniform keys."""
    ours, baseline = (float(getattr(until(event, table), reduce)()) for table in uniform())
    note = f"cycles, uniform 12-bit keys, n = {N}, k = {K}, 16 lanes, {DRAWS:,} draws"
    return Result(name, ours / baseline, "x", "lower", bar, ours, baseline, note)


def quick_select_passes() -> Result:
    """How far the passes' mean is from that of the published rule, on distinct keys."""
    rng = np.random.default_rng(1)
    jobs = [(rng.permutation(N), K) for _ in range(DRAWS)]
    spec = TopkSpec("quick_select", key_bits=10, buffers=1)
    result = run(spec, jobs)
    cycles = _passes(result.jobs)
    tied = _passes(uniform()[1])
    mean = float(cycles.mean())
    reads = result.counts["compare_keys"] / (N * DRAWS)
    note = (
        f"relative difference of the mean; {mean:.1f} +- {cycles.std():.1f} cycles, published "
        f"{PUBLISHED_MEAN:.0f} +- {PUBLISHED_SD:.1f}, {DRAWS:,} draws of distinct keys; keys read "
        f"{reads:.3f} n, in theory {2 + 2 * np.log(2):.3f} n; uniform 12-bit keys, which tie, "
        f"{tied.mean():.1f} +- {tied.std():.1f}"
    )
    return Result(
        "quick_select_passes", abs(mean - PUBLISHED_MEAN) / PUBLISHED_MEAN, "1", "lower", 0.01,
        mean, PUBLISHED_MEAN, note,
    )  # fmt: skip


def _passes(table: Table) -> NDArray[np.int64]:
    return np.asarray(table["decided"] - table["selected"] - 1, dtype=np.int64)


# -- attention rows --------------------------------------------------------------------------------


@cache
def row_sets() -> tuple[Any, ...]:
    """Return the rows that there are data for."""
    # torch is needed for these only.
    from benchmarks.lib import attention_scores as scores

    data = os.environ.get("COSIL_DATA")
    more = (scores.stories(Path(data), 128), scores.stories(Path(data), 256)) if data else ()
    return (scores.topics(), *more)


@cache
def real(kind: str, ratio_kept: float = VALUE_RATIO) -> list[tuple[float, float, float, str]]:
    """Return ratio of total means, both means and a note, for each set of rows, on one key."""
    from benchmarks.lib import attention_scores as scores

    make, bits, signed = {
        "scores": (scores.score_keys, scores.SCORE_BITS, True),
        "log": (scores.distance_keys, scores.DISTANCE_BITS, False),
        "linear": (scores.probability_keys, scores.SCORE_BITS, False),
    }[kind]
    found: list[tuple[float, float, float, str]] = []
    for rows in row_sets():
        keys, largest = make(rows)
        n = keys.shape[2]
        k = round(ratio_kept * n)
        jobs = [(row, k) for row in keys.reshape(-1, n)]
        # 13 bits are 7 and 6: two digits, as 12 bits.
        tables = both(jobs, key_bits=bits, signed=signed, largest=largest, digit_bits=7)
        select = [float(until("decided", table).mean()) for table in tables]
        total = [float(until("last_output", table).mean()) for table in tables]
        worst = [int(until("last_output", table).max()) for table in tables]
        lost = scores.mass_lost(rows, keys, k, largest)
        distinct = np.mean([np.unique(row).size for row, _ in jobs])
        note = (
            f"{rows.name}, n = {n}, k = {k}, {len(jobs)} rows: total {total[0]:.1f} / "
            f"{total[1]:.1f} = {total[0] / total[1]:.3f}, select {select[0]:.1f} / "
            f"{select[1]:.1f}, largest total {worst[0]} / {worst[1]}; {distinct:.0f} distinct "
            f"keys, {lost:.1e} of the probability lost"
        )
        found.append((total[0] / total[1], total[0], total[1], note))
    return found


def real_rows() -> Result:
    """Compare mean totals on attention rows by the key that is chosen, the worst set of rows."""
    value, ours, baseline, _ = max(real("log"))
    note = "cycles, log-coded probabilities, worst of: " + "; ".join(x[3] for x in real("log"))
    if not os.environ.get("COSIL_DATA"):
        note += "; stories260K skipped: COSIL_DATA names no folder"
    return Result("total_mean_vs_quickselect_real", value, "x", "lower", 0.5, ours, baseline, note)


def other_key(name: str, kind: str, ratio_kept: float = VALUE_RATIO) -> Result:
    """Show mean totals by another key or part kept, the worst set of rows."""
    value, ours, baseline, _ = max(real(kind, ratio_kept))
    note = "; ".join(x[3] for x in real(kind, ratio_kept))
    return Result(name, value, "x", "lower", None, ours, baseline, note)


def energy_by_digit() -> Result:
    """Compare the energy of a job, and show what narrower digits cost and save."""
    rng = np.random.default_rng(3)
    jobs = [(keys, K) for keys in rng.integers(4096, size=(500, N))]
    specs = [TopkSpec("quick_select", buffers=1)]
    specs += [TopkSpec(buffers=1, digit_bits=bits) for bits in (6, 4, 3, 2)]
    found: list[tuple[float, str]] = []
    for spec in specs:
        result = run(spec, jobs)
        select = float(until("decided", result.jobs).mean())
        joules = [
            MODEL.energy(spec, result.counts, technology=technology).total_pj / len(jobs)
            for technology in TECHNOLOGIES
        ]
        name = "-".join(map(str, spec.digit_widths))
        if spec.architecture == "quick_select":
            name = spec.architecture
        figures = ", ".join(
            f"{pj:.0f} pJ ({technology})"
            for pj, technology in zip(joules, TECHNOLOGIES, strict=True)
        )
        found.append((joules[0], f"{name}: select {select:.1f} cycles, {figures}"))
    ours, baseline = found[1][0], found[0][0]
    note = f"uniform 12-bit keys, {len(jobs)} jobs, pJ a job; digits " + "; ".join(
        text for _, text in found
    )
    return Result(
        "energy_vs_quickselect", ours / baseline, "x", "lower", None, ours, baseline, note
    )


# -- speed of the simulator ------------------------------------------------------------------------


def rate(architecture: str, step: bool) -> Result:
    """Jobs simulated in a second."""
    rng = np.random.default_rng(2)
    spec = TopkSpec.from_dict({"architecture": architecture})
    count = 20 if step else 2000
    jobs = [(keys, K) for keys in rng.integers(4096, size=(count, N))]
    result = run(spec, jobs, step=step)
    seconds = min(thread_seconds_of(lambda: run(spec, jobs, step=step)) for _ in range(5))
    note = (
        f"{'stepped' if step else 'fast'} model, {architecture}, n = {N}, k = {K}; "
        f"{result.cycles / seconds:.3g} cycles/s, thread time, best of 5"
    )
    name = f"{'stepped' if step else 'fast'}_jobs_per_s_{architecture}"
    return Result(name, count / seconds, "jobs/s", "higher", None, None, None, note)


BENCHMARKS: dict[str, Callable[[], Result]] = {
    "select_mean_vs_quickselect": lambda: ratio(
        "select_mean_vs_quickselect", "decided", "mean", 0.31
    ),
    "select_max_vs_quickselect": lambda: ratio("select_max_vs_quickselect", "decided", "max", 0.20),
    "total_mean_vs_quickselect": lambda: ratio(
        "total_mean_vs_quickselect", "last_output", "mean", 0.46
    ),
    "total_max_vs_quickselect": lambda: ratio(
        "total_max_vs_quickselect", "last_output", "max", 0.25
    ),
    "quick_select_passes": quick_select_passes,
    "total_mean_vs_quickselect_real": real_rows,
    "real_log_half": lambda: other_key("real_log_half", "log", 0.5),
    "real_scores": lambda: other_key("real_scores", "scores"),
    "real_linear": lambda: other_key("real_linear", "linear"),
    "energy_vs_quickselect": energy_by_digit,
    "fast_jobs_per_s_radix": lambda: rate("radix", step=False),
    "fast_jobs_per_s_quick_select": lambda: rate("quick_select", step=False),
    "stepped_jobs_per_s_radix": lambda: rate("radix", step=True),
    "stepped_jobs_per_s_quick_select": lambda: rate("quick_select", step=True),
}


def versions() -> dict[str, str]:
    """Return what the figures depend on besides the machine."""
    return {"data": os.environ.get("COSIL_DATA", "bundled only")}


if __name__ == "__main__":
    results.main("topk", __doc__, BENCHMARKS, versions)

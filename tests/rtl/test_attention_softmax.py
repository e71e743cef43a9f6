# SPDX-License-Identifier: Apache-2.0
"""Distances, logarithms and probabilities of the attention engine against exact arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from cosil.engines.attention import AttentionSpec
from rtl.attention.probability import Probability
from rtl.attention.softmax import Sum
from rtl.lib.verilog import to_verilog
from verif.lib.vectors import run_vectors

pytestmark = [pytest.mark.cosim, pytest.mark.xdist_group("attention_parts")]

SPEC = AttentionSpec(head_dim=128, multipliers=128, max_tokens=4096)
"""One lane, and the widest scores and sums that a spec admits."""

ROW = {"n": 13, "mult": 16, "shift": 6, "lsb_low": 12, "lsb_high": 12}
INPUTS: dict[str, Any] = {
    "distance": 13, "log": 12, "keep": 1,
    "start": 1, **ROW, "retried": 1, "maximum": signed(31), "score": signed(31), "done": 1,
}  # fmt: skip
OUTPUTS = {
    "probability": 22, "read": 1, "write": 1, "distances": 13, "busy": 1, "found": 12,
    "ready": 1, "redo": 1,
}  # fmt: skip
Run = Callable[..., dict[str, NDArray[np.uint64]]]


class Parts(wiring.Component):
    """Both parts with narrow ports, so that Verilator compiles only one model."""

    def __init__(self) -> None:
        super().__init__(
            {name: In(shape) for name, shape in INPUTS.items()}
            | {name: Out(shape) for name, shape in OUTPUTS.items()}
        )

    def elaborate(self, platform: object) -> Module:
        """Connect ports to the fields and lanes of the parts."""
        m = Module()
        m.submodules.probability = probability = Probability(SPEC)
        m.submodules.sum = total = Sum(SPEC)
        ports: dict[str, Signal] = {name: getattr(self, name) for name in (*INPUTS, *OUTPUTS)}
        m.d.comb += [
            probability.distance[0].eq(ports["distance"]),
            probability.log.eq(ports["log"]),
            probability.keep.eq(ports["keep"]),
            ports["probability"].eq(probability.probability[0]),
            *(total.row[name].eq(ports[name]) for name in ROW),
            *(getattr(total, name).eq(ports[name]) for name in ("start", "retried", "maximum")),
            total.scores[0].eq(ports["score"]),
            total.done.eq(ports["done"]),
            *(ports[name].eq(getattr(total, name)) for name in ("read", "write", "busy")),
            *(ports[name].eq(getattr(total, name)) for name in ("ready", "redo")),
            ports["distances"].eq(total.distances[0]),
            ports["found"].eq(total.log),
        ]
        return m


@pytest.fixture(scope="module")
def run() -> Run:
    """Drive the parts; inputs that a test does not name are 0."""
    verilog = to_verilog(Parts(), name="top")

    def drive(**inputs: NDArray[np.int64]) -> dict[str, NDArray[np.uint64]]:
        cycles = len(next(iter(inputs.values())))
        full = {port: np.zeros(cycles, dtype=np.uint64) for port in INPUTS}
        return run_vectors(verilog, full | inputs, tuple(OUTPUTS))

    return drive


def power(fraction: int) -> int:
    """2^(24 - fraction/256), rounded to the nearest."""
    with localcontext(prec=40):
        return int((Decimal(2) ** (24 - Decimal(fraction) / 256)).to_integral_value())


def logarithm(total: int) -> int:
    """log2(total / 2^24) in 256ths, from the leading one and the middle of ten bits below it."""
    leading = total.bit_length() - 1
    below = total >> (leading - 10) & 1023
    with localcontext(prec=40):
        mantissa = 1 + (Decimal(below) + Decimal("0.5")) / 1024
        part = (256 * mantissa.ln() / Decimal(2).ln()).to_integral_value()
    return (leading - 24) * 256 + int(part)


POWERS = [power(fraction) for fraction in range(256)]


def test_probability_is_the_rounded_power(run: Run) -> None:
    """The result is round(2^-(t + L)), saturated below 1, and 0 without weight or key."""
    rng = np.random.default_rng(0)
    n = 60_000
    distance = rng.integers(0, 1 << rng.integers(1, 14, n), n)
    distance[:300] = 8191
    log = rng.integers(0, 3073, n) >> rng.integers(0, 12, n)
    keep = rng.integers(0, 8, n) > 0
    got = run(distance=distance, log=log, keep=keep)["probability"]
    expected: list[int] = []
    for t, shift, kept in zip(distance.tolist(), log.tolist(), keep.tolist(), strict=True):
        u = t + shift
        r = 2 + (u >> 8)
        p = min((POWERS[u & 255] + (1 << r - 1)) >> r, (1 << 22) - 1)
        expected.append(p if kept and t != 8191 else 0)
    assert expected.count((1 << 22) - 1) > 10  # t + L = 0 saturates
    assert len(set(expected)) > 3000
    np.testing.assert_array_equal(expected[: -Probability.STAGES], got[Probability.STAGES :])


class Case(NamedTuple):
    """A row, the cycle in which it starts, and what must come of it."""

    start: int
    scores: list[int]
    mult: int
    shift: int
    low: int
    high: int
    retried: bool
    distances: list[int]
    log: int

    @property
    def decided(self) -> int:
        """Cycle d of section 5.3."""
        return self.start + len(self.scores) + 12 + SPEC.lane_tree

    @property
    def flat(self) -> bool:
        """The row's LSBs are asked for."""
        return not self.retried and self.low <= self.log <= self.high


def random_rows(rng: np.random.Generator, count: int) -> list[Case]:
    """Rows whose distances fall everywhere between 0 and far beyond saturation."""
    rows: list[Case] = []
    at = 1
    for _ in range(count):
        n = int(rng.integers(1, 24))
        size = int(rng.integers(1, 31))
        scores = rng.integers(-(1 << size - 1), 1 << size - 1, n)
        mult = int(rng.integers(0, 65536)) >> int(rng.integers(0, 16))
        # So that a typical difference is some units of log2 away, with exceptions.
        typical = size + mult.bit_length() - int(rng.integers(6, 15))
        shift = min(max(typical, 0), 47) if rng.random() < 0.9 else int(rng.integers(0, 48))
        half = 1 << shift - 1 if shift else 0
        top = int(scores.max())
        distances = [min((top - int(s)) * mult + half >> shift, 8191) for s in scores]
        total = sum(POWERS[t & 255] >> (t >> 8) for t in distances if t != 8191)
        log = logarithm(total)
        low, high = [(log, log), (log + 1, 4095), (0, max(log, 1) - 1), (1, 0)][rng.integers(0, 4)]
        row = Case(at, scores.tolist(), mult, shift, low, high, bool(rng.integers(0, 2)),
                   distances, log)  # fmt: skip
        rows.append(row)
        at = row.decided + 1 + int(rng.integers(0, 3))
    return rows


def test_sum_gives_distances_and_logarithm_in_the_stated_cycles(run: Run) -> None:
    """Distances six cycles after a read; logarithm and decision a + B + 12 + T_g; flat rows once.

    Rows follow each other as closely as the page allows.
    """
    rows = random_rows(np.random.default_rng(1), 1500)
    cycles = rows[-1].decided + 10
    drive = {name: np.zeros(cycles, dtype=np.int64) for name in INPUTS}
    expected = {name: np.zeros(cycles, dtype=np.uint64) for name in OUTPUTS}
    for row in rows:
        n, a, d = len(row.scores), row.start, row.decided
        span = slice(a, d + 1)
        drive["start"][a] = 1
        fields = {
            "n": n, "mult": row.mult, "shift": row.shift, "lsb_low": row.low,
            "lsb_high": row.high, "retried": row.retried, "maximum": max(row.scores) & 0x7FFFFFFF,
        }  # fmt: skip
        for name, value in fields.items():
            drive[name][span] = value
        drive["score"][a + 1 : a + 1 + n] = np.array(row.scores) & 0x7FFFFFFF
        drive["done"][d] = not row.flat
        expected["read"][a : a + n] = 1
        expected["write"][a + 6 : a + 6 + n] = 1
        expected["distances"][a + 6 : a + 6 + n] = row.distances
        expected["busy"][a + 1 : d + 1] = 1
        expected["redo" if row.flat else "ready"][d] = 1
        expected["found"][d] = row.log
    got = run(**drive)
    decided = [row.decided for row in rows]
    written = expected["write"] == 1
    for name in ("read", "write", "busy", "ready", "redo"):
        np.testing.assert_array_equal(expected[name], got[name], err_msg=name)
    np.testing.assert_array_equal(expected["distances"][written], got["distances"][written])
    np.testing.assert_array_equal(expected["found"][decided], got["found"][decided])
    shown = expected["distances"][written]
    assert 0.02 < np.mean(shown == 8191) < 0.8
    assert len(set(shown.tolist())) > 2000
    assert 200 < sum(row.flat for row in rows) < 1300

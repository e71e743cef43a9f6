# SPDX-License-Identifier: Apache-2.0
"""Proofs of the parts that move keys, and proofs that have to fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from amaranth.hdl import Module

from rtl.lib.banked import BankedRows
from rtl.lib.compaction import CompactionBuffer
from rtl.lib.concentrate import Concentrator, ZeroEliminator
from rtl.lib.prefix import PrefixSum
from verif.lib.formal import Proof, prove_stream_rules
from verif.topk import formal

pytestmark = pytest.mark.synth


@pytest.mark.parametrize("lanes", [1, 2, 8, 16])
def test_prefix_sum(lanes: int) -> None:
    """Ranks and total are the sums of the flags, for every row of flags."""
    assert formal.prove_prefix(lanes).proved


@pytest.mark.parametrize("lanes", [2, 4, 8, pytest.param(16, marks=pytest.mark.slow)])
def test_concentrator(lanes: int) -> None:
    """Every kept lane arrives at its destination and no other lane is filled, for every row."""
    assert formal.prove_concentrator(lanes).proved


@pytest.mark.parametrize(
    "lanes", [1, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 8))]
)
def test_zero_eliminator_and_compaction_buffer(lanes: int) -> None:
    """Items leave in order, each once and all of them, whatever rows, stalls and resets do."""
    proof = formal.prove_gather(lanes)
    assert proof.proved, proof.log[-2000:]


@pytest.mark.parametrize(
    ("lanes", "rows"), [(1, 3), (2, 2), pytest.param(2, 4, marks=pytest.mark.slow)]
)
def test_compaction_in_place(lanes: int, rows: int) -> None:
    """Rows compacted in place hold the kept lanes in order, whichever are kept."""
    proof = formal.prove_in_place(lanes, rows)
    assert proof.proved, proof.log[-2000:]


def test_compaction_buffer_keeps_the_stream_rules() -> None:
    """A beat that is not taken stays, unchanged, whatever the inputs do."""
    assert prove_stream_rules(CompactionBuffer(2, 2)).proved


class _WrongTotal(PrefixSum):
    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.total.eq(self.i[0])
        return m


class _Doubled(Concentrator):
    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        with m.If(self.keep.all()):
            m.d.comb += self.o[0].eq(self.i[-1])
        return m


class _Unrotated(ZeroEliminator):
    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.sync += self._begin.eq(0)
        return m


class _Forgetful(CompactionBuffer):
    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        with m.If(self.en & self.full & self.end):
            m.d.sync += self._rest.eq(0)
        return m


class _Stale(BankedRows):
    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.o[0].eq(0)
        return m


@pytest.mark.parametrize(
    ("part", "broken", "attempt"),
    [
        ("PrefixSum", _WrongTotal, lambda: formal.prove_prefix(4)),
        ("Concentrator", _Doubled, lambda: formal.prove_concentrator(4)),
        ("ZeroEliminator", _Unrotated, lambda: formal.prove_gather(2)),
        ("CompactionBuffer", _Forgetful, lambda: formal.prove_gather(2)),
        ("BankedRows", _Stale, lambda: formal.prove_in_place(1, 3)),
    ],
)
def test_broken_part_is_refuted(
    monkeypatch: pytest.MonkeyPatch, part: str, broken: Any, attempt: Callable[[], Proof]
) -> None:
    """A part with one fault gives a counterexample."""
    monkeypatch.setattr(formal, part, broken)
    proof = attempt()
    assert proof.refuted
    assert not proof.proved

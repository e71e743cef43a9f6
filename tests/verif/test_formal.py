# SPDX-License-Identifier: Apache-2.0
"""Unbounded proofs of the stream rules, and proofs that have to fail."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from cosil.engines.w4a8 import W4A8Spec
from rtl.w4a8.fetch import ColumnFetcher
from verif.lib.formal import prove_stream_rules
from verif.w4a8.formal import GuardedFetcher, prove_fetcher, prove_output

pytestmark = pytest.mark.synth

OS = W4A8Spec(3, 4, scales="group", max_k=64)
WS = W4A8Spec(4, 3, "ws", scales="group", max_k=64, acc_rows=16)


@pytest.mark.parametrize("name", ["a", "w", "s", "e", "r"])
@pytest.mark.parametrize("spec", [OS, WS], ids=["os", "ws"])
def test_requests_hold_until_taken(spec: W4A8Spec, name: str) -> None:
    """A request that is not taken stays, unchanged, in every reachable cycle."""
    proof = prove_fetcher(spec, name)
    assert proof.proved, proof.log[-2000:]
    assert not proof.refuted


@pytest.mark.parametrize(
    "spec",
    [
        W4A8Spec(1, 2, epilogue="fixed", epilogue_lanes=1, max_k=4),
        W4A8Spec(1, 1, epilogue="fp16", max_k=4),
    ],
    ids=["fixed", "fp16"],
)
def test_results_hold_until_taken(spec: W4A8Spec) -> None:
    """A result that is not taken stays, unchanged, in every reachable cycle."""
    proof = prove_output(spec)
    assert proof.proved, proof.log[-2000:]


class _Flickering(wiring.Component):
    """A guarded fetcher whose valid an input can suppress."""

    def __init__(self) -> None:
        self._fetcher = GuardedFetcher(ColumnFetcher(OS), 8)
        members: dict[str, Any] = {
            name: member
            for name, member in self._fetcher.signature.members.items()
            if member.is_port
        }
        super().__init__(
            members | {"o": Out(stream.Signature(32)), "flicker": In(1), "shift": In(1)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fetcher = fetcher = self._fetcher
        for name, member in fetcher.signature.members.items():
            if member.is_port:
                m.d.comb += getattr(fetcher, name).eq(getattr(self, name))
        m.d.comb += [
            self.o.valid.eq(fetcher.o.valid & ~self.flicker),
            self.o.payload.eq(fetcher.o.payload + self.shift),
            fetcher.o.ready.eq(self.o.ready & ~self.flicker),
        ]
        return m


@pytest.mark.parametrize("tied", [{"flicker": 0}, {"shift": 0}, {"flicker": 0, "shift": 0}])
def test_broken_stream_is_refuted(tied: dict[str, int]) -> None:
    """A valid that drops, or a payload that moves, is refuted by a run from reset."""

    class Tied(wiring.Component):
        def __init__(self) -> None:
            self._inner = _Flickering()
            free = {n: x for n, x in self._inner.signature.members.items() if n not in tied}
            super().__init__(free)

        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.submodules.inner = inner = self._inner
            for name, member in self.signature.members.items():
                if member.is_port:
                    m.d.comb += getattr(inner, name).eq(getattr(self, name))
            for name, value in tied.items():
                m.d.comb += getattr(inner, name).eq(value)
            wiring.connect(m, wiring.flipped(self.o), inner.o)
            return m

    invariants = [
        ("inner.fetcher.credit", "device.inner.fetcher.fetcher.reserved"),
        ("inner.fetcher.bounded", "1'1"),
    ]
    proof = prove_stream_rules(Tied(), invariants=invariants, max_length=6)
    assert proof.proved == (len(tied) == 2), proof.log[-2000:]
    assert proof.refuted == (len(tied) == 1), proof.log[-2000:]


def test_fetcher_needs_its_neighbours() -> None:
    """Without the guards, which stand for the rest of the array, the rules do not hold."""
    proof = prove_stream_rules(ColumnFetcher(OS), max_length=4)
    assert proof.refuted
    assert not proof.proved

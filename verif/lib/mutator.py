# SPDX-License-Identifier: Apache-2.0
"""The hardware that breaks a stream on demand."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from verif.lib.mutants import BEAT_BITS, Mutant


class Mutator(wiring.Component):
    """A stream that passes through unchanged, or is broken as `kind` says.

    Valid stuck low holds from beat `beat` after reset on; the others touch that beat: one payload
    bit is inverted, the beat is accepted and lost, or the first cycle in which it could have been
    transferred passes without a transfer.

    Parameters
    ----------
    width : int
        Bits of the payload.
    flipped_bit : int
        The bit that `Mutant.FLIPPED_BIT` inverts.

    Members
    -------
    kind : In(3)
        A `Mutant`; constant after reset.
    beat : In(16)
        Number of the broken beat; constant after reset.
    i, o : stream of `width` bits
        There is no register between them.
    """

    kind: Signal
    beat: Signal
    i: stream.Interface
    o: stream.Interface

    def __init__(self, width: int, flipped_bit: int = 0) -> None:
        assert 0 <= flipped_bit < width
        self._flipped_bit = flipped_bit
        super().__init__(
            {
                "kind": In(3),
                "beat": In(BEAT_BITS),
                "i": In(stream.Signature(width)),
                "o": Out(stream.Signature(width)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Build the pass-through and, beside it, the four faults."""
        m = Module()
        number, done = Signal(BEAT_BITS), Signal()
        reached = number == self.beat
        here = reached & ~done
        flip = Mux(here & (self.kind == Mutant.FLIPPED_BIT), 1 << self._flipped_bit, 0)
        m.d.comb += [
            self.o.payload.eq(self.i.payload ^ flip),
            self.o.valid.eq(self.i.valid),
            self.i.ready.eq(self.o.ready),
        ]
        with m.If(reached & (self.kind == Mutant.VALID_STUCK_LOW)):
            m.d.comb += [self.o.valid.eq(0), self.i.ready.eq(0)]
        with m.If(here & (self.kind == Mutant.DROPPED_BEAT)):
            m.d.comb += [self.o.valid.eq(0), self.i.ready.eq(1)]
        with m.If(here & (self.kind == Mutant.EXTRA_CYCLE)):
            m.d.comb += [self.o.valid.eq(0), self.i.ready.eq(0)]
        lost = here & (self.kind == Mutant.DROPPED_BEAT)
        with m.If(self.i.valid & (self.o.ready | lost)):
            with m.If(reached):
                m.d.sync += done.eq(1)
            with m.Else():
                m.d.sync += number.eq(number + 1)
        return m

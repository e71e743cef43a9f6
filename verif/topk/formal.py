# SPDX-License-Identifier: Apache-2.0
"""Proofs of the parts that move keys: nothing is lost, nothing is doubled, the order stays.

Every checker has free inputs and an output `broken`. What is right is said by counting: a kept
item's data is its number, so that order and completeness are one comparison with a counter.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from rtl.lib.banked import BankedRows
from rtl.lib.compaction import CompactionBuffer
from rtl.lib.concentrate import Concentrator, ZeroEliminator
from rtl.lib.prefix import PrefixSum
from rtl.lib.widths import index_bits
from verif.lib.formal import Proof, prove


def _before(flags: Value, lane: int) -> Value:
    """Return how many flags are set below a lane, flag by flag."""
    total: Value = Const(0, 1)
    for other in range(lane):
        total = total + flags[other]
    return total


class PrefixChecker(wiring.Component):
    """A prefix sum and the sums that it stands for."""

    i: Signal
    broken: Signal

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        super().__init__({"i": In(lanes), "broken": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """Compare every rank, and the total."""
        m = Module()
        m.submodules.device = device = PrefixSum(self._lanes)
        wrong = [device.ranks[lane] != _before(self.i, lane) for lane in range(self._lanes)]
        wrong.append(device.total != _before(self.i, self._lanes))
        m.d.comb += [device.i.eq(self.i), self.broken.eq(Cat(wrong).any())]
        return m


class ConcentratorChecker(wiring.Component):
    """A concentrator whose destinations begin anywhere."""

    keep: Signal
    begin: Signal
    i: Any
    broken: Signal

    def __init__(self, lanes: int, bits: int) -> None:
        self._lanes, self._bits = lanes, bits
        super().__init__(
            {
                "keep": In(lanes),
                "begin": In(lanes.bit_length() - 1),
                "i": In(data.ArrayLayout(bits, lanes)),
                "broken": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Look for every kept lane at its destination, and for lanes that nothing was sent to."""
        m = Module()
        lanes = self._lanes
        m.submodules.device = device = Concentrator(lanes, self._bits)
        wrong: list[Value] = []
        for lane in range(lanes):
            to = Signal(lanes.bit_length() - 1, name=f"to_{lane}")
            m.d.comb += [to.eq(self.begin + _before(self.keep, lane)), device.to[lane].eq(to)]
            arrived = Array(device.o[other] for other in range(lanes))[to]
            filled = device.filled.bit_select(to, 1)
            wrong.append(self.keep[lane] & (~filled | (arrived != self.i[lane])))
        kept, filled = _before(self.keep, lanes), _before(device.filled, lanes)
        m.d.comb += [
            device.keep.eq(self.keep),
            device.i.eq(self.i),
            self.broken.eq(Cat(*wrong, kept != filled).any()),
        ]
        return m


class GatherChecker(wiring.Component):
    """A zero eliminator with a compaction buffer behind it, as the filter has them.

    Rows, gaps, the row that ends a job and the readiness of the output are free. Kept items carry
    their number within the job, other lanes anything. A small machine of its own knows how many
    items each register holds; that the device's registers hold just those is part of what is
    proved.

    Members
    -------
    keep, other, final : In
        Lanes that are kept, data of the lanes that are not, and that the row ends its job.
    ready : In(1)
        The output is taken.
    broken : Out(1)
    """

    keep: Signal
    other: Any
    final: Signal
    ready: Signal
    broken: Signal

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        # Four registers hold fewer than 4 * lanes items, so a number is never taken for another.
        self._bits = lanes.bit_length() + 2
        super().__init__(
            {
                "keep": In(lanes),
                "other": In(data.ArrayLayout(self._bits, lanes)),
                "final": In(1),
                "ready": In(1),
                "broken": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Follow the items by number from register to register."""
        m = Module()
        P = self._lanes
        m.submodules.eliminator = eliminator = ZeroEliminator(P, self._bits, registered=True)
        m.submodules.buffer = buffer = CompactionBuffer(P, self._bits)
        beat, en = buffer.o.payload, buffer.en
        # Items given so far, and of those: gone, in the beat, held, in row 2, in row 1.
        given = Signal(self._bits)
        out = Signal(self._bits)
        shown, held, second, first = (Signal(range(P + 1), name=name)
                                      for name in ("shown", "held", "second", "first"))  # fmt: skip
        closed = Signal()  # the final row was given
        final_1, end = Signal(), Signal()
        keep = Signal(P)
        taken = Signal()
        amount = Signal(range(P + 1))
        together = Signal(range(2 * P + 1))
        emits = Signal()
        m.d.comb += [
            keep.eq(self.keep & (~closed).replicate(P)),
            amount.eq(_before(keep, P)),
            buffer.o.ready.eq(self.ready),
            taken.eq(buffer.o.valid & self.ready),
            eliminator.en.eq(en),
            eliminator.restart.eq(taken & beat.last),
            eliminator.keep.eq(keep),
            *(
                eliminator.i[lane].eq(Mux(keep[lane], given + _before(keep, lane),
                                          self.other[lane]))
                for lane in range(P)
            ),
            buffer.filled.eq(eliminator.filled),
            buffer.wraps.eq(eliminator.wraps),
            buffer.full.eq(eliminator.full),
            buffer.i.eq(eliminator.o),
            buffer.end.eq(end),
            together.eq(held + second),
        ]  # fmt: skip
        rest = Signal()
        m.d.comb += emits.eq((together >= P) | end | rest)
        with m.If(en):
            m.d.sync += [
                given.eq(given + amount),
                closed.eq(closed | self.final),
                first.eq(amount),
                second.eq(first),
                final_1.eq(self.final & ~closed),
                end.eq(final_1),
                rest.eq(end & (together > P)),
                shown.eq(Mux(emits, Mux(together > P, P, together), 0)),
                held.eq(Mux(emits, Mux(together > P, together - P, 0), together)),
                out.eq(out + shown),
            ]
        done = taken & beat.last
        with m.If(done):
            m.d.sync += [closed.eq(0), given.eq(0), out.eq(0), first.eq(0), second.eq(0),
                         final_1.eq(0), end.eq(0)]  # fmt: skip
        m.d.comb += self.broken.eq(
            Cat(
                self._outputs(beat, buffer.o.valid, out, shown, given),
                self._registers(eliminator, buffer, out + shown, held, second, first,
                                ~closed | final_1 | end),
                # Where the small machine could not be.
                held >= P, rest & ((held == 0) | (second != 0)), rest != buffer._rest,
                given != (out + shown + held + second + first)[: self._bits],
                (shown != 0) & ~buffer.o.valid,
                (end | rest | final_1) & ~closed, end & final_1, (end | rest) & (first != 0),
                rest & (end | final_1),
                buffer.o.valid & beat.last & (~closed | final_1 | end | rest),
                closed & ~(final_1 | end | rest) & ~(buffer.o.valid & beat.last),
                closed & (first != 0) & ~final_1, closed & (second != 0) & ~(final_1 | end),
            ).any()
        )  # fmt: skip
        return m

    def _outputs(self, beat: Any, valid: Value, out: Value, shown: Value, given: Value) -> Value:
        """Return what is wrong with the beat that is offered."""
        P = self._lanes
        wrong = [beat.keep[lane] != (shown > lane) for lane in range(P)] + [
            beat["items"][lane] != Mux(shown > lane, (out + lane)[: self._bits], 0)
            for lane in range(P)
        ]
        wrong.append(~beat.last & (shown != P))
        wrong.append(beat.last & ((out + shown)[: self._bits] != given))
        return valid & Cat(wrong).any()

    def _registers(
        self,
        eliminator: ZeroEliminator,
        buffer: CompactionBuffer,
        number: Value,
        held: Value,
        second: Value,
        first: Value,
        open_: Value,
    ) -> Value:
        """Return what is wrong with the items that are not yet in a beat; `number`: the first."""
        P, bits = self._lanes, self._bits
        wrong: list[Value] = []
        for lane in range(P):
            wrong += [
                buffer._holds[lane] != (held > lane),
                buffer._held[lane] != Mux(held > lane, (number + lane)[:bits], 0),
                eliminator.filled[lane] & (eliminator.wraps[lane] != (held > lane)),
            ]
            # Lane `held + j` modulo the lanes has item j of the second row.
            ahead = Mux(held > lane, lane + P - held, lane - held)[: P.bit_length()]
            wrong += [
                eliminator.filled[lane] != (second > ahead),
                eliminator.filled[lane] & (eliminator.o[lane] != (number + held + ahead)[:bits]),
            ]
            rank = _before(eliminator._keep, lane)
            expected = (number + held + second + rank)[:bits]
            wrong += [
                eliminator._keep[lane] & (eliminator._ranks[lane] != rank),
                eliminator._keep[lane] & (eliminator._row[lane] != expected),
            ]
        wrong += [
            # After the last partial beat it is of no account until the restart.
            open_ & (eliminator._begin != (held + second)[: P.bit_length() - 1]),
            eliminator.full != (held + second >= P),
            eliminator.count != first,
            _before(eliminator._keep, P) != first,
        ]
        return Cat(wrong).any()


class InPlaceChecker(wiring.Component):
    """Rows that are read from banks while their kept lanes are written back in place.

    The rows are written, read back with free keep flags, and read once more. Data are numbers: the
    device only moves them.

    Members
    -------
    keep : In(lanes)
        Lanes that are kept of the row that was read in the cycle before.
    broken : Out(1)
    """

    keep: Signal
    broken: Signal

    def __init__(self, lanes: int, rows: int) -> None:
        self._lanes, self._rows = lanes, rows
        super().__init__({"keep": In(lanes), "broken": Out(1)})

    @property
    def cycles(self) -> int:
        """Cycles until the last row was compared."""
        return 3 * self._rows + 8

    def elaborate(self, platform: object) -> Module:
        """Write, compact, compare: a pass follows the last write of the one before by a cycle."""
        m = Module()
        P, rows = self._lanes, self._rows
        bits = index_bits(P * rows)
        m.submodules.eliminator = eliminator = ZeroEliminator(P, bits, registered=False)
        m.submodules.device = device = BankedRows(P, bits, rows)
        cycle = Signal(range(self.cycles + 2))
        first_read, second_read = rows + 1, 2 * rows + 3
        writes, returns, compares = cycle < rows, Signal(), Signal()
        row = Signal(range(rows))
        kept = Signal(range(P * rows + 1))
        numbers = Array(Signal(bits, name=f"number_{i}") for i in range(P * rows))
        m.d.sync += [
            cycle.eq(Mux(cycle >= self.cycles, cycle, cycle + 1)),
            returns.eq((cycle >= first_read) & (cycle < first_read + rows)),
            compares.eq((cycle >= second_read) & (cycle < second_read + rows)),
            row.eq(device.row),
        ]
        keep = Signal(P)
        restart = Signal()
        m.d.comb += [
            device.row.eq(Mux(cycle >= second_read, cycle - second_read, cycle - first_read)),
            keep.eq(Mux(writes, (1 << P) - 1, Mux(returns, self.keep, 0))),
            restart.eq((cycle == first_read) | (cycle == second_read)),
            eliminator.en.eq(1),
            eliminator.keep.eq(keep),
            eliminator.restart.eq(restart),
            *(
                eliminator.i[lane].eq(Mux(writes, cycle * P + lane, device.o[lane]))
                for lane in range(P)
            ),
            device.restart.eq(restart),
            device.filled.eq(eliminator.filled),
            device.wraps.eq(eliminator.wraps),
            device.full.eq(eliminator.full),
            device.i.eq(eliminator.o),
        ]
        with m.If(writes):
            m.d.sync += kept.eq(0)
        with m.Elif(returns):
            m.d.sync += kept.eq(kept + _before(self.keep, P))
            for lane in range(P):
                with m.If(self.keep[lane]):
                    m.d.sync += numbers[kept + _before(self.keep, lane)].eq(row * P + lane)
        wrong = [
            (row * P + lane < kept) & (device.o[lane] != numbers[row * P + lane])
            for lane in range(P)
        ]
        m.d.comb += self.broken.eq(compares & Cat(wrong).any())
        return m


def prove_prefix(lanes: int) -> Proof:
    """Prove that every rank of a prefix sum, and the total, is the sum that it stands for."""
    return prove(PrefixChecker(lanes), subject="a proof of the prefix sum")


def prove_concentrator(lanes: int, bits: int = 2) -> Proof:
    """Prove that a concentrator brings every kept lane, and nothing else, where it belongs."""
    return prove(ConcentratorChecker(lanes, bits), subject="a proof of the concentrator")


def prove_gather(lanes: int) -> Proof:
    """Prove that eliminator and compaction buffer lose, double and reorder nothing, ever."""
    return prove(GatherChecker(lanes), subject="a proof of the compaction buffer")


def prove_in_place(lanes: int, rows: int) -> Proof:
    """Prove that no way to compact rows in place loses, doubles or reorders a key."""
    checker = InPlaceChecker(lanes, rows)
    return prove(checker, subject="a proof of the banks", max_length=checker.cycles + 4)

# SPDX-License-Identifier: Apache-2.0
"""A workload of counts on an attention engine: timing as if there were a network.

Values are synthetic, since a workload has none: cycles of the selectors depend on them, those of
the other stages do not, as every row's LSB rule follows from the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cosil.engines.attention import AttentionSpec
from cosil.errors import CosilError
from cosil.lowering.attention import Operands, RowCommand
from cosil.lowering.workload import (
    Totals,
    WorkloadRow,
    check_workload,
    commands,
    passes,
    totals,
)
from cosil.machine.attention import MACS
from cosil.machine.execute import LayerRun, MachineRun, energy_of
from cosil.machine.spec import Machine
from cosil.packed.generators import lfsr32_leap
from sim.attention import run

GENERATOR = "lfsr32_leap"
_QUERIES = 61
"""Different queries, taken in turn; a prime, so that heads and passes do not fall into step."""

_SCALE = RowCommand(
    n=1, values=0, key_msb=0, key_lsb=0, value=0, head=0, mult=49152, shift=30, out_mult=1 << 15,
    out_shift=28,
)  # fmt: skip
"""Scores of uniform codes and 64 columns then spread over two powers of two (one sigma)."""


@dataclass(frozen=True, slots=True, eq=False)
class WorkloadRun(MachineRun):
    """What a workload took; a layer is the sum of its passes.

    Attributes
    ----------
    spec : AttentionSpec
    totals : Totals
        What the file asks for.
    seed : int
    """

    spec: AttentionSpec
    totals: Totals
    seed: int

    @property
    def roof_cycles(self) -> int:
        """Cycles that memory needs for the bytes that the engine moved; 0 without a limit."""
        rate = int(self.machine.memory.bytes_per_cycle)
        return -(-self.bytes // rate) if rate else 0

    @property
    def bytes(self) -> int:
        """Bytes of keys and values that the engine moved."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def values(self) -> str:
        """What the values are."""
        return f"synthetic: {GENERATOR}, seed {self.seed}"

    @property
    def utilisation(self) -> float:
        """Multiply-accumulates over what the multipliers could have done."""
        macs = sum(layer.macs for layer in self.layers)
        return macs / (self.spec.multipliers * self.cycles)


def run_workload(
    machine: Machine,
    rows: list[WorkloadRow],
    *,
    source: str = "workload",
    seed: int = 1,
    done: Callable[[], None] = lambda: None,
) -> WorkloadRun:
    """Run a workload on a machine's attention engine.

    Passes and layers go one after the other: what a layer attends to follows from the one before.

    Parameters
    ----------
    machine : Machine
        With an attention engine; its memory's bandwidth and latency hold.
    rows : list of WorkloadRow
    source : str
        File or name of the workload.
    seed : int
        Of the generator, 1..2**32 - 1.
    done : callable
        Called after each pass.

    Raises
    ------
    CosilError
        If the machine has no attention engine, or a line does not fit it.
    """
    if machine.attention is None:
        raise CosilError(
            f"machine {machine.name}: a workload needs an attention engine",
            "add a table [attention] to the machine, or use the preset spatten-512",
        )
    if not 1 <= seed < 1 << 32:
        raise CosilError(f"seed must be in 1..{(1 << 32) - 1}, not {seed!r}")
    spec = machine.attention
    check_workload(spec, rows, source)
    memory, pool = synthetic(spec, max(row.length for row in rows), seed)
    causes: dict[int, Counter[str]] = {}
    counts: dict[int, Counter[str]] = {}
    first = 0
    state = None
    rate = int(machine.memory.bytes_per_cycle)
    for number, each in enumerate(passes(rows)):
        for layer, program in commands(each, _SCALE, clear=number == 0):
            queries = sum(isinstance(command, RowCommand) for command in program)
            query = pool[(first + np.arange(queries)) % _QUERIES]
            first += queries
            result = run(
                spec,
                program,
                Operands(query, memory.key_msb, memory.key_lsb, memory.value),
                state=state,
                memory_latency=machine.memory.latency_cycles,
                bytes_per_cycle=rate or None,
            )
            state = result.state
            causes.setdefault(layer, Counter()).update(result.cycles_by_cause)
            counts.setdefault(layer, Counter()).update(result.counts)
        done()
    layers: list[LayerRun] = []
    start = 0
    for layer in sorted(causes):
        layers.append(_layer(machine, spec, layer, start, causes[layer], counts[layer]))
        start += layers[-1].cycles
    return WorkloadRun(machine, Path(source).name, tuple(layers), {}, spec, totals(rows), seed)


def _layer(
    machine: Machine,
    spec: AttentionSpec,
    number: int,
    start: int,
    causes: Counter[str],
    counts: Counter[str],
) -> LayerRun:
    return LayerRun(
        name=f"layer {number}",
        op="attention",
        engine="attention",
        spec=spec,
        start=start,
        cycles=causes.total(),
        cycles_by_cause=dict(causes),
        macs=sum(counts[name] for name in MACS),
        macs_per_cycle=spec.multipliers,
        bytes=sum(counts[name] for name in ("k_msb_bytes", "k_lsb_bytes", "v_bytes")),
        counts=dict(counts),
        energy=energy_of(machine, spec, counts),
        jobs=(),
        shape=(),
    )


def synthetic(spec: AttentionSpec, tokens: int, seed: int) -> tuple[Operands, np.ndarray]:
    """Return keys and values of tokens, and a pool of queries int16[61, D].

    One draw a code: of a token's, bits 0..7 are a key's MSBs, 8..11 its LSBs, 12..19 a value; of a
    query's, bits 0..11 are the code. Tokens come first, then queries.
    """
    count = (tokens + _QUERIES) * spec.head_dim
    draws = np.empty(count, dtype=np.uint32)
    drawn = seed
    for index in range(count):
        drawn = lfsr32_leap(drawn)
        draws[index] = drawn
    of_tokens, of_queries = np.split(draws.reshape(-1, spec.head_dim), [tokens])
    query = ((of_queries & 0xFFF).astype(np.int16) ^ 0x800) - 0x800
    memory = Operands(
        query[:0],
        of_tokens.astype(np.uint8).view(np.int8),
        (of_tokens >> 8 & 15).astype(np.uint8),
        (of_tokens >> 12).astype(np.uint8).view(np.int8),
    )
    return memory, query.astype(np.int16)

# SPDX-License-Identifier: Apache-2.0
"""Attention nodes on engine `attention`: codes by the vector unit, rows on the engine.

A node is two runs of the engine for each sequence of the batch, one after the other: what resets
and prunes, whose result the machine reads to write the second, the rows. The engine's state goes
from node to node and, with a cache, from pass to pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cosil.engines.attention import AttentionSpec
from cosil.lowering import attention_layer
from cosil.lowering.attention import Command, Operands, State, power_up
from cosil.lowering.attention_program import QUERY_BITS, Program, program
from cosil.machine import vector_unit
from cosil.machine.jobs import Work
from cosil.machine.spec import Machine
from cosil.packed.network import Node
from sim import vector
from sim.attention import AttentionRun, run

Array = NDArray[Any]

MACS = ("mac_qk", "mac_pv")
"""Actions that are multiply-accumulates: of both products, LSB passes included."""


@dataclass(slots=True, eq=False)
class Cascade:
    """The engine's state for each sequence of the batch, and where the pass is.

    Attributes
    ----------
    sequences : list of Sequence
        One for each sequence.
    states : list of State
        The engine's; empty before the first node of a sequence.
    """

    sequences: list[attention_layer.Sequence]
    states: list[State] = field(default_factory=list[State])

    @classmethod
    def begin(cls, batch: int, length: int, cache: vector.KVCache | None) -> Cascade:
        """Start a pass over `length` new tokens."""
        past = 0 if cache is None else cache.length
        earlier = None if cache is None else cache.cascade
        states = list(cast("Cascade", earlier).states) if earlier is not None else []
        return cls([attention_layer.Sequence.begin(past, length) for _ in range(batch)], states)


def attend(
    machine: Machine,
    node: Node,
    inputs: tuple[Array, ...],
    cache: vector.KVCache | None,
    cascade: Cascade,
    *,
    step: bool = False,
) -> tuple[Array, Work]:
    """Run one node.

    Parameters
    ----------
    machine : Machine
        One with an attention engine.
    node : Node
        An attention node on engine `attention`.
    inputs : tuple of float16[B, L, heads * d]
        Queries, keys, values.
    cache : KVCache, optional
        Codes of earlier passes; extended.
    cascade : Cascade
        State of the pass; modified in place.
    step : bool
        Advance every register cycle by cycle.

    Returns
    -------
    float16[B, L, heads * d], Work
        +0 where a query or a head did not run.

    Raises
    ------
    CosilError
        If the machine has no attention engine.
    ValueError
        If a query, key or value is NaN, or the sequence exceeds the engine's tokens.
    """
    at = program(node)
    spec = machine.attention_for(node)
    query, key, value = vector.attention_heads(node, inputs, cache)
    batch, heads, length, dim = query.shape
    q = codes(query, node, "query", QUERY_BITS)
    k = codes(key, node, "key", at.key_bits) << at.key_shift
    v = codes(value, node, "value", at.value_bits)
    made = sum(each.nbytes for each in inputs) + _code_bytes(at, q, k, v)
    operations = vector_unit.codes_operations(node, inputs)
    work = Work(spec, macs_per_cycle=spec.multipliers, mac_counts=MACS)
    work.on_vector_unit(machine, operations, made)
    if cache is not None:
        k, v = cache.extend(node.name, k, v)
    if not cascade.states:
        cascade.states = [power_up(spec)] * batch
    output = np.zeros((batch, heads, length, dim), dtype=np.int16)
    for one, sequence in enumerate(cascade.sequences):
        runs = _sequence(machine, spec, node, cascade, one, (q[one], k[one], v[one]), step=step)
        rows = sequence.heads
        assert rows is not None
        ran = attention_layer.queries(at, sequence, length)
        output[one, rows[:, None], ran] = runs[-1].y.reshape(len(rows), len(ran), dim)
        for each in runs:
            work.add(each)
    counts = work.counts
    work.bytes += sum(counts[name] for name in ("k_msb_bytes", "k_lsb_bytes", "v_bytes"))
    work.bytes += counts["q_beats"] * dim * QUERY_BITS // 8 + 2 * output.size
    half = (output.astype(np.float32) * np.float32(at.out_scale)).astype(np.float16)
    result = half.transpose(0, 2, 1, 3).reshape(batch, length, heads * dim)
    written = 2 * output.size + result.nbytes
    work.on_vector_unit(machine, vector_unit.REAL * output.size, written)
    return result, work


def codes(x: Array, node: Node, role: str, bits: int) -> Array:
    """Return clamp(RNE(f32(x / scale[head])), -2**(bits-1), 2**(bits-1) - 1), int64[B, H, L, d]."""
    if np.isnan(x).any():
        raise ValueError(f"{node.name}: the {role} must not hold NaN")
    scale = node.tensors[f"{role}_scale"].words
    limit = 1 << (bits - 1)
    scaled = np.rint(x.astype(np.float32) / scale[:, None, None])
    return scaled.clip(-limit, limit - 1).astype(np.int64)


def _sequence(
    machine: Machine,
    spec: AttentionSpec,
    node: Node,
    cascade: Cascade,
    one: int,
    operands: tuple[Array, Array, Array],
    *,
    step: bool,
) -> list[AttentionRun]:
    """Run a node for one sequence; the last run is that of the rows."""
    sequence = cascade.sequences[one]
    rate = machine.memory.bytes_per_cycle
    runs: list[AttentionRun] = []

    def go(commands: Sequence[Command], read: Operands) -> AttentionRun:
        made = run(
            spec,
            commands,
            read,
            state=cascade.states[one],
            memory_latency=machine.memory.latency_cycles,
            bytes_per_cycle=max(1, int(rate)) if rate else None,
            step=step,
        )
        cascade.states[one] = made.state
        runs.append(made)
        return made

    before = attention_layer.prologue(node, sequence)
    ids: list[NDArray[np.int64]] = []
    if before:
        empty = np.zeros((0, spec.head_dim))
        nothing = Operands(
            empty.astype(np.int16), empty.astype(np.int8), empty.astype(np.uint8),
            empty.astype(np.int8),
        )  # fmt: skip
        ids = go(before, nothing).kept
    attention_layer.kept(node, sequence, before, ids)
    layer = attention_layer.layer(node, sequence, *operands)
    go(layer.commands, layer.operands)
    return runs


def _code_bytes(at: Program, q: Array, k: Array, v: Array) -> int:
    """Return the bytes of the new tokens' codes in memory."""
    bits = q.size * QUERY_BITS + k.size * at.key_bits + v.size * at.value_bits
    return bits // 8

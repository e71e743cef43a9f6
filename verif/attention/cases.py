# SPDX-License-Identifier: Apache-2.0
"""Test cases of the attention bench, what is expected of them, and both as beats of streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.engines.attention import OUTPUT_BITS, QUERY_BITS, AttentionSpec
from cosil.lowering.attention import (
    Command,
    HeadsCommand,
    Operands,
    ResetCommand,
    RowCommand,
    TokensCommand,
)
from verif.lib import cases
from verif.lib.beats import grouped, packed

STREAMS = ("cmd", "q", "k_req", "k", "v_req", "v", "e", "kept")
"""Streams that a stall pattern can name (section 3)."""

MILESTONES = ("start", "first_value", "last_value", "last_output")
"""Cycles of a row that a monitor sees: its query's transfer, its first and last launch of values,
its last output's transfer."""

ADDRESS_BITS = 32
ID_BITS = 16

_COMMANDS = (RowCommand, TokensCommand, HeadsCommand, ResetCommand)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Case(cases.Case[Command]):
    """A case of `verif.lib.cases`; its jobs are commands, which overlap.

    The first command is a reset that clears all, since a reset of the device clears no memory. The
    last one is none, since no stream shows its end.

    Attributes
    ----------
    operands : Operands
    latency : int
        Memory latency in cycles.
    padding : int
        Seed of what responses hold in place of rows that were not asked for.
    """

    operands: Operands
    latency: int = 2
    padding: int = 0

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Case:
        """Return the case that crossed over by `verif.lib.archive`."""
        jobs = [_command(job) for job in tree["jobs"]]
        return cls(**{**tree, "jobs": jobs, "operands": Operands(**tree["operands"])})

    @property
    def rows(self) -> list[RowCommand]:
        """The row commands."""
        return [command for command in self.jobs if isinstance(command, RowCommand)]


def _command(tree: dict[str, Any]) -> Command:
    """Return the command whose fields these are; no two classes have the same."""
    kind = next(kind for kind in _COMMANDS if tree.keys() == {f.name for f in fields(kind)})
    return kind(**tree)


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What reference and simulator say of a case.

    Attributes
    ----------
    outputs, kept, msb_requests, lsb_requests, value_requests : sequence of int
        Payloads of `o_e`, `o_kept`, `o_k` of either plane and `o_v`, made from the reference.
    milestones : mapping of str to sequence of int
        Cycles by name of `MILESTONES` and row.
    cycles : int
    counts, causes : mapping of str to int
        Action counts, and cycles by cause, of the whole run.
    """

    outputs: Sequence[int]
    kept: Sequence[int]
    msb_requests: Sequence[int]
    lsb_requests: Sequence[int]
    value_requests: Sequence[int]
    milestones: Mapping[str, Sequence[int]]
    cycles: int
    counts: Mapping[str, int]
    causes: Mapping[str, int]


def command_word(command: Command) -> int:
    """Return the payload of `i_cmd`."""
    return packed(command.words().tolist(), 32)


def query_word(query: NDArray[np.int16]) -> int:
    """Return the payload of `i_q`."""
    return packed(query.tolist(), QUERY_BITS)


def image(codes: NDArray[Any]) -> list[int]:
    """Return the rows of a memory as numbers, code 0 in the low byte."""
    return [int.from_bytes(row.tobytes(), "little") for row in codes]


def requests(spec: AttentionSpec, base: int, ids: Sequence[int], plane: int = 0) -> list[int]:
    """Return the payloads of `o_k` or `o_v` (plane 0) that ask for the rows of tokens."""
    lanes = spec.lanes
    beats: list[int] = []
    for group in grouped(ids, lanes):
        addresses = packed((base + token for token in group), ADDRESS_BITS)
        keep = (1 << len(group)) - 1 | plane << lanes
        beats.append(addresses | keep << lanes * ADDRESS_BITS)
    return beats


def requested(lanes: int, payload: int) -> list[int | None]:
    """Return the rows that a request asks for; None in lanes that ask for none."""
    mask = (1 << ADDRESS_BITS) - 1
    keep = payload >> lanes * ADDRESS_BITS
    return [
        payload >> lane * ADDRESS_BITS & mask if keep >> lane & 1 else None for lane in range(lanes)
    ]


def output_beats(spec: AttentionSpec, tag: int, output: Sequence[int]) -> list[int]:
    """Return the payloads of `o_e` for a row."""
    lanes = spec.out_lanes
    beats = [tag | packed(group, OUTPUT_BITS) << 32 for group in grouped(output, lanes)]
    beats[-1] |= 1 << 32 + lanes * OUTPUT_BITS
    return beats


def kept_beats(spec: AttentionSpec, ids: Sequence[int]) -> list[int]:
    """Return the payloads of `o_kept` for a selection."""
    lanes = spec.lanes
    beats = [
        packed(group, ID_BITS) | (1 << len(group)) - 1 << lanes * ID_BITS
        for group in grouped(ids, lanes)
    ]
    beats[-1] |= 1 << lanes * (ID_BITS + 1)
    return beats

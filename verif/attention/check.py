# SPDX-License-Identifier: Apache-2.0
"""Reference, simulator and hardware side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from algos.reference.attention import Result, reference
from cosil.engines.attention import AttentionSpec
from cosil.lowering.attention import Command, ResetCommand, RowCommand, TokensCommand
from rtl.attention import Attention
from sim.attention import AttentionRun, run
from verif.attention.cases import (
    MILESTONES,
    Case,
    Expected,
    kept_beats,
    output_beats,
    requests,
)
from verif.lib.check import EngineCheck
from verif.lib.harness import Harness


def _harness(spec: AttentionSpec) -> Harness:
    """Return the engine in a harness whose flipped bits matter.

    A reset becomes a selection of no token, whose beat is surplus; signs of codes; an address; an
    output; an id.
    """
    flipped = {"i_cmd": 1, "i_q": 11, "i_k": 7, "i_v": 7, "o_k": 0, "o_v": 0, "o_e": 32}
    return Harness(Attention(spec), observed="o_events", flipped_bits=flipped)


def expect(spec: AttentionSpec, case: Case) -> Expected:
    """Return the reference's results as beats, and the stepped simulator's cycles and counts.

    Raises
    ------
    AssertionError
        If simulator and reference differ: then there is nothing to compare with.
    """
    got = run(
        spec, case.jobs, case.operands, stalls=case.stalls, memory_latency=case.latency, step=True
    )
    want = reference(spec, case.jobs, case.operands)
    _assert_equal(case.name, want, got)
    output = want.output.tolist()
    lists = key_lists(spec, case.jobs, [kept.numpy() for kept in want.kept])
    flat = want.redo.tolist()
    outputs: list[int] = []
    msb_requests: list[int] = []
    lsb_requests: list[int] = []
    value_requests: list[int] = []
    for number, row in enumerate(case.rows):
        outputs += output_beats(spec, row.tag, output[number])
        msb_requests += requests(spec, row.key_msb, lists[number])
        if flat[number]:
            lsb_requests += requests(spec, row.key_lsb, lists[number], plane=1)
        value_requests += requests(spec, row.value, want.valued[number].tolist())
    return Expected(
        outputs,
        [beat for kept in want.kept for beat in kept_beats(spec, kept.tolist())],
        msb_requests,
        lsb_requests,
        value_requests,
        {name: got.jobs[name].tolist() for name in MILESTONES},
        got.cycles,
        got.counts,
        got.cycles_by_cause,
    )


def _assert_equal(name: str, want: Result, got: AttentionRun) -> None:
    pairs = [
        (want.output.numpy(), got.y),
        (want.redo.numpy(), got.redo),
        (want.state.tokens, got.state.tokens),
        (want.state.importance, got.state.importance),
        (want.state.head_importance, got.state.head_importance),
        *zip((kept.numpy() for kept in want.kept), got.kept, strict=True),
    ]
    if not all(np.array_equal(a, b) for a, b in pairs):
        raise AssertionError(f"{name}: simulator and reference differ before any hardware ran")


def key_lists(
    spec: AttentionSpec, commands: Sequence[Command], kept: Sequence[NDArray[np.int64]]
) -> list[list[int]]:
    """Return the tokens whose keys each row command reads.

    Parameters
    ----------
    spec : AttentionSpec
    commands : sequence of commands
    kept : sequence of int64[k]
        What each tokens and heads command keeps.
    """
    tokens = list(range(spec.max_tokens))
    lists: list[list[int]] = []
    selections = iter(kept)
    for command in commands:
        if isinstance(command, RowCommand):
            lists.append(tokens[: command.n])
        elif isinstance(command, ResetCommand):
            tokens = list(range(command.tokens))
        else:
            ids = next(selections).tolist()
            tokens = ids if isinstance(command, TokensCommand) else tokens
    return lists


_CHECK = EngineCheck("attention", _harness, expect)
streams, verify = _CHECK.streams, _CHECK.verify

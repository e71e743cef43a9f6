# SPDX-License-Identifier: Apache-2.0
"""The invariants of every run of the attention engine notice what breaks them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from cosil.engines.attention import AttentionSpec
from cosil.lowering.attention import (
    LSB_ALWAYS,
    Command,
    HeadsCommand,
    Operands,
    ResetCommand,
    RowCommand,
    State,
    TokensCommand,
)
from sim.attention import run
from sim.attention.invariants import check_run
from sim.attention.plan import Program, Record

SPEC = AttentionSpec(head_dim=8, multipliers=16, max_tokens=32, max_heads=4)
ROW = RowCommand(9, 4, 0, 0, 0, 0, 40000, 33, 30000, 30)
COMMANDS: list[Command] = [
    ResetCommand(12),
    ROW,
    replace(ROW, n=12, values=0, lsb_low=LSB_ALWAYS[0], lsb_high=LSB_ALWAYS[1], msb_bits=6),
    TokensCommand(12, 10, 3),
    ROW,
    HeadsCommand(4, 2),
    TokensCommand(12, 6, 3),
    replace(ROW, n=6, add_importance=False),
    TokensCommand(12, 2, 2),
]
"""The last selection keeps fewer than were protected before, so protected ones only."""


class Finished(NamedTuple):
    """What `check_run` looks at."""

    start: State
    program: Program
    record: Record
    counts: dict[str, int]


def finished(commands: list[Command]) -> Finished:
    """Run commands, and keep what the invariants are asked about."""
    rng = np.random.default_rng(1)
    memory = (rng.integers(-128, 128, (32, 8)).astype(np.int8) for _ in range(2))
    query = rng.integers(-2048, 2048, (9, 8)).astype(np.int16)
    lsb = rng.integers(0, 16, (32, 8)).astype(np.uint8)
    key, value = memory
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sim.attention.check_run", lambda *arguments: seen.extend(arguments))
        run(SPEC, commands, Operands(query, key, lsb, value))
    return Finished(*seen)


def _importance(done: Finished) -> None:
    done.record.importance[3] += 1


def _row(done: Finished) -> None:
    # Both sums, so that only the row's own is wrong.
    done.record.added[0] += 1 << 16
    done.record.importance[0] += 1 << 16


def _key_bytes(done: Finished) -> None:
    done.counts["k_msb_bytes"] += 6


def _lsb_bytes(done: Finished) -> None:
    done.record.redo[0] = 1


def _value_bytes(done: Finished) -> None:
    done.counts["v_bytes"] -= 8


def _selected(done: Finished) -> None:
    done.counts["value_items"] += 1


def _products(done: Finished) -> None:
    done.counts["mac_pv"] += SPEC.head_dim


def _order(done: Finished) -> None:
    done.record.kept[:2] = done.record.kept[1::-1]


def _heads(done: Finished) -> None:
    done.record.kept[11] = done.record.kept[10]


def _returned(done: Finished) -> None:
    first, second = set(done.record.kept[:10].tolist()), done.record.kept[12:18]
    (gone, *_) = sorted(set(range(12)) - first)
    second[:] = sorted([gone, *sorted(set(second.tolist()) - {gone})[1:]])


def _list(done: Finished) -> None:
    done.record.tokens[0] += 1


@pytest.mark.parametrize(
    ("violate", "said"),
    [
        (_importance, "importance is the sum of probabilities"),
        (_row, "a row's probabilities sum to 1"),
        (_key_bytes, "k_msb_bytes are the bits that were fetched"),
        (_lsb_bytes, "k_lsb_bytes are the bits that were fetched"),
        (_value_bytes, "v_bytes are the bits that were fetched"),
        (_selected, "the selector emits the values that are kept"),
        (_products, "probabilities meet kept values only"),
        (_order, "kept ids increase"),
        (_heads, "kept ids increase"),
        (_returned, "no pruned token comes back within a pass"),
        (_list, "the list is what was kept"),
    ],
)
def test_a_violation_is_noticed(violate: Callable[[Finished], None], said: str) -> None:
    """A sound run passes; the same with one number changed is refused by the rule it breaks."""
    done = finished(COMMANDS)
    check_run(*done)
    violate(done)
    with pytest.raises(AssertionError, match=said):
        check_run(*done)


def test_a_growing_list_is_noticed() -> None:
    """The commands of another pass: what was kept is more than was there."""
    twelve: list[Command] = [ResetCommand(12), ROW, TokensCommand(12, 9)]
    done = finished(twelve)
    eight: list[Command] = [ResetCommand(8), replace(ROW, n=8), TokensCommand(8, 4)]
    shorter = finished(eight)
    done.program.commands[0] = shorter.program.commands[0]
    with pytest.raises(AssertionError, match="survivors do not grow"):
        check_run(*done)


@pytest.mark.parametrize(
    "commands",
    [
        # Other tokens than the pass's: an id of the list before may not be among them.
        [ResetCommand(12), ROW, TokensCommand(12, 6), TokensCommand(4, 4)],
        # What was protected is judged by its sum: an earlier loser may beat it.
        [ResetCommand(12), ROW, TokensCommand(12, 6, 5), TokensCommand(12, 6)],
    ],
)
def test_what_the_cascade_does_not_promise(commands: list[Command]) -> None:
    """Outside the conditions of section 1 a token comes back, and that is no error of the model."""
    done = finished(commands)
    first, second = done.record.kept[:6], done.record.kept[6:]
    assert not set(second.tolist()) <= set(first.tolist())
    check_run(*done)

# SPDX-License-Identifier: Apache-2.0
"""What must hold of the beats of any device (docs/engines/attention.md, section 8).

Nothing here knows what is expected: a device is held against its commands and what it said before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from cosil.engines.attention import AttentionSpec
from cosil.lowering.attention import (
    Command,
    HeadsCommand,
    ResetCommand,
    RowCommand,
    TokensCommand,
)
from cosil.lowering.survivors import Survivors, check_order
from verif.attention.cases import ADDRESS_BITS, ID_BITS, requested

C = TypeVar("C", bound=Command)

_ID_MASK = (1 << ID_BITS) - 1


class Invariants:
    """Follows `o_kept` and `o_v` of a run.

    Parameters
    ----------
    spec : AttentionSpec
    commands : sequence of commands
        Those of the run.
    """

    def __init__(self, spec: AttentionSpec, commands: Sequence[Command]) -> None:
        self._lanes = spec.lanes
        self._commands = list(commands)
        self._at = 0
        self._ids: list[int] = []
        self._values: list[int] = []
        self._list = Survivors(np.arange(spec.max_tokens))

    def kept(self, payload: int) -> None:
        """Take a beat of `o_kept`.

        Raises
        ------
        AssertionError
            If ids do not increase, are not as many as asked for, or the list gains one.
        """
        lanes = self._lanes
        keep = payload >> lanes * ID_BITS
        self._ids += [
            payload >> lane * ID_BITS & _ID_MASK for lane in range(lanes) if keep >> lane & 1
        ]
        if not keep >> lanes & 1:
            return
        command = self._next(TokensCommand, HeadsCommand)
        ids = np.array(self._ids, dtype=np.int64)
        self._ids.clear()
        assert ids.size == command.k, "a selection keeps as many as it was asked for"
        if isinstance(command, TokensCommand):
            self._list.select(command.tokens, command.recent, ids)
        else:
            check_order(ids)
        self._at += 1

    def value_request(self, payload: int) -> None:
        """Take a beat of `o_v`.

        Raises
        ------
        AssertionError
            If it asks for a row that is not of the list's first n, for one twice, or out of order.
        """
        rows = [row for row in requested(self._lanes, payload) if row is not None]
        command = self._next(RowCommand)
        self._values += [(row - command.value) % (1 << ADDRESS_BITS) for row in rows]
        check_order(np.array(self._values))
        readable = self._list.tokens[: command.n]
        assert np.isin(self._values, readable).all(), "only kept rows are read"
        assert len(self._values) <= command.values, "a row reads the values that it keeps"
        if len(self._values) == command.values:
            self._values.clear()
            self._at += 1

    def _next(self, *kinds: type[C]) -> C:
        """Return the command that a beat belongs to, past those that show none."""
        while self._at < len(self._commands):
            command = self._commands[self._at]
            if isinstance(command, ResetCommand):
                self._list.reset(command.tokens)
            elif not (isinstance(command, RowCommand) and command.values == 0):
                assert isinstance(command, kinds), "beats come in the order of the commands"
                return command
            self._at += 1
        raise AssertionError("no beat comes after the last command's")

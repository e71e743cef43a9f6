# SPDX-License-Identifier: Apache-2.0
"""What cascade token pruning promises of the list (docs/engines/attention.md, sections 1 and 8)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True, eq=False)
class Survivors:
    """The list within a pass over the layers, followed from selection to selection.

    Attributes
    ----------
    tokens : int64[k]
        The list.
    total : int
        Tokens of the pass; -1 where they are not known, or nothing is promised any more.
    recent : int
        How many newest tokens the selections of the pass protect; -1 before the first.
    """

    tokens: NDArray[np.int64]
    total: int = -1
    recent: int = -1

    def reset(self, total: int) -> None:
        """Begin a pass."""
        self.tokens, self.total, self.recent = np.arange(total, dtype=np.int64), total, -1

    def select(self, total: int, recent: int, ids: NDArray[np.int64]) -> None:
        """Take what a selection among tokens 0..total-1 kept as the list.

        Raises
        ------
        AssertionError
            If ids do not increase, are more than were left, or one had been pruned before: the
            latter where the selections are among the tokens of the pass and protect the same number
            of newest ones throughout, or all that they keep if that is fewer.
        """
        check_order(ids)
        assert ids.size <= self.tokens.size, "survivors do not grow"
        same = self.recent in (-1, recent) or recent == ids.size < self.recent
        if total == self.total and same:
            assert np.isin(ids, self.tokens).all(), "no pruned token comes back within a pass"
            self.recent = recent
        else:
            self.total = -1
        self.tokens = ids


def check_order(ids: NDArray[np.int64]) -> None:
    """Assert that ids increase strictly."""
    assert np.all(np.diff(ids) > 0), "kept ids increase"

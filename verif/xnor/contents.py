# SPDX-License-Identifier: Apache-2.0
"""What the array's memories hold as jobs one after the other leave them, word by address."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import FLAG_BASE, FLAG_COLUMNS, FLAG_WEIGHTS, Job, Operands
from cosil.packed import bits


class Contents:
    """The memories for weights, base values and column parameters (section 4).

    A job that does not load finds at an address what the last one that did wrote there, whatever
    the shapes of both. What was never written is not 0 in hardware, so no job may look at it.

    Parameters
    ----------
    spec : XnorSpec
    """

    def __init__(self, spec: XnorSpec) -> None:
        self._spec = spec
        folds, pe = spec.output_folds_max, spec.pe
        tiles = (spec.weight_depth, pe, spec.weight_planes, spec.simd)
        self._tiles = np.zeros(tiles, dtype=np.uint8)
        self._base = np.zeros((spec.border_classes, folds, pe), dtype=np.uint16)
        self._columns = np.zeros((folds, pe), dtype=np.uint64)
        self._written = {
            "w": np.zeros(spec.weight_depth, dtype=np.bool_),
            "c": np.zeros((spec.border_classes, folds), dtype=np.bool_),
            "e": np.zeros(folds, dtype=np.bool_),
        }

    def load(self, job: Job, operands: Operands) -> None:
        """Write what a job loads; lanes past K and n are 0."""
        spec = self._spec
        folds = spec.output_folds(job.n)
        lanes = folds * spec.pe
        if job.has(FLAG_WEIGHTS):
            inputs = spec.input_folds(job.k)
            rows = np.zeros((lanes, spec.weight_planes, inputs * spec.simd), dtype=np.uint8)
            rows[: job.n, :, : job.k] = bits.unpack(operands.w, job.k)
            split = rows.reshape(folds, spec.pe, spec.weight_planes, inputs, spec.simd)
            tiles = split.transpose(0, 3, 1, 2, 4).reshape(-1, *self._tiles.shape[1:])
            self._tiles[: len(tiles)] = tiles
            self._written["w"][: len(tiles)] = True
        if job.has(FLAG_BASE):
            rows = np.zeros((job.classes, lanes), dtype=np.uint16)
            rows[:, : job.n] = operands.base
            self._base[: job.classes, :folds] = rows.reshape(job.classes, folds, spec.pe)
            self._written["c"][: job.classes, :folds] = True
        if job.has(FLAG_COLUMNS):
            words = np.zeros(lanes, dtype=np.uint64)
            words[: job.n] = operands.e
            self._columns[:folds] = words.reshape(folds, spec.pe)
            self._written["e"][:folds] = True

    def weights(self, k: int, n: int) -> NDArray[np.uint8] | None:
        """Return the weight bits uint8[n, planes, K] that a job finds.

        None if it may not be run: words were not written, or lanes past K are not 0.
        """
        spec = self._spec
        folds, inputs = spec.output_folds(n), spec.input_folds(k)
        used = folds * inputs
        if not self._written["w"][:used].all():
            return None
        split = self._tiles[:used].reshape(folds, inputs, *self._tiles.shape[1:])
        rows = split.transpose(0, 2, 3, 1, 4).reshape(-1, spec.weight_planes, inputs * spec.simd)
        return None if rows[:, :, k:].any() else rows[:n, :, :k].copy()

    def base(self, k: int, n: int, classes: int) -> NDArray[np.uint16] | None:
        """Return the base values uint16[classes, n] that a job finds.

        None if it may not be run: words were not written, or values exceed 2 K.
        """
        folds = self._spec.output_folds(n)
        rows = self._base[:classes, :folds].reshape(classes, -1)[:, :n]
        written = self._written["c"][:classes, :folds].all()
        return rows.copy() if written and int(rows.max()) <= 2 * k else None

    def columns(self, n: int) -> NDArray[np.uint64] | None:
        """Return the column parameters uint64[n] that a job finds; None if not written."""
        folds = self._spec.output_folds(n)
        words = self._columns[:folds].reshape(-1)[:n]
        return words.copy() if self._written["e"][:folds].all() else None

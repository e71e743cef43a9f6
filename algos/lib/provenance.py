# SPDX-License-Identifier: Apache-2.0
"""How a packed network came to be, as its manifest tells it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor


def provenance_of(
    method: str, settings: dict[str, Any], batches: Sequence[Tensor], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the record of a compression: JSON-like, equal for equal inputs.

    Parameters
    ----------
    method : str
        Name in the registry.
    settings : dict
        All hyper-parameters, the seed among them.
    batches : sequence of Tensor
        Calibration inputs; the record holds their number and the sha256 of their bytes.
    notes : sequence of str
        What the method left out, and why.
    """
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(batch.contiguous().cpu().numpy().tobytes())
    calibration = {"samples": sum(len(batch) for batch in batches), "sha256": digest.hexdigest()}
    return {
        "method": method,
        "settings": settings,
        "calibration": calibration,
        "notes": list(notes),
    }

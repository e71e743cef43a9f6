# SPDX-License-Identifier: Apache-2.0
"""Settings of binary training, and the binarisers by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from algos.binary.binariser import Binariser
from algos.binary.biper import BiPer
from algos.binary.bitnet import BitNet
from algos.binary.hbnn import Hbnn
from algos.binary.irnet import IrNet
from algos.binary.ovsw import Ovsw
from algos.binary.recu import Recu
from algos.binary.reste import Reste
from algos.binary.ste import Ste

BINARISERS: Mapping[str, type[Binariser]] = MappingProxyType(
    {
        "ste": Ste, "recu": Recu, "reste": Reste, "irnet": IrNet, "biper": BiPer, "ovsw": Ovsw,
        "hbnn": Hbnn, "bitnet": BitNet,
    }
)  # fmt: skip
"""Name -> rule."""

_LEAST = {
    "bias_init": 0.0, "steps": 0, "batch": 2, "decay": 0.0, "shift": 0, "start_samples": 2,
    "seed": 0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class BinarySettings:
    """Hyper-parameters; those of a binariser are its published ones (its own file).

    Parameters
    ----------
    binariser : str
        One of `BINARISERS`.
    bias_init : float
        a > 0: the offsets of the norms before a sign start at random in -a..a deviations, instead
        of where the float network has them.
    steps, batch : int
        Updates, and images in each.
    rate, decay : float
        Largest learning rate, and weight decay of the weights.
    shift : int
        Images are moved by up to so many pixels.
    flip : bool
        Half of the batches are mirrored.
    start_samples : int
        Images, at most, that steps and norms start from.
    seed : int
        Of batches and of what binarisers start from at random.
    """

    binariser: str = "recu"
    bias_init: float = 0.0
    steps: int = 300
    batch: int = 64
    rate: float = 1.5
    decay: float = 1e-4
    shift: int = 1
    flip: bool = False
    start_samples: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.binariser not in BINARISERS:
            known = ", ".join(map(repr, BINARISERS))
            raise ValueError(f"binary: binariser must be one of {known}, not {self.binariser!r}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not value >= least:
                raise ValueError(f"binary: {name} must be at least {least}, not {value!r}")
        if not self.rate > 0:
            raise ValueError(f"binary: rate must be positive, not {self.rate!r}")

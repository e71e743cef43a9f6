# SPDX-License-Identifier: Apache-2.0
"""The codecs by name."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from cosil.packed import binary, bitplane, int4, int8, raw, ternary
from cosil.packed.errors import PackedFormatError
from cosil.packed.tensor import PackedTensor


class Codec(Protocol):
    """What every codec module has; `encode` differs, since its parameters do."""

    def decode(self, tensor: PackedTensor) -> NDArray[Any]:
        """Return the codes."""
        ...

    def stored_bits(self, tensor: PackedTensor) -> int:
        """Return the bits of words and scales."""
        ...

    def check(self, tensor: PackedTensor, *, content: bool = True) -> None:
        """Raise `PackedFormatError` on a malformed tensor."""
        ...


CODECS: dict[str, Codec] = {
    "int4": int4,
    "int8": int8,
    "bitplane": bitplane,
    "binary": binary,
    "ternary": ternary,
    "raw": raw,
}
"""Name of each codec -> its module."""


def codec(tensor: PackedTensor) -> Codec:
    """Return the codec of a tensor."""
    if tensor.codec not in CODECS:
        raise PackedFormatError(
            "codec", "codec", f"must be one of {', '.join(CODECS)}, not {tensor.codec!r}"
        )
    return CODECS[tensor.codec]


def check(subject: str, tensor: PackedTensor, *, content: bool = True) -> None:
    """Check a tensor by its codec; an error names `subject`."""
    try:
        codec(tensor).check(tensor, content=content)
    except PackedFormatError as error:
        detail = f"{error.subject}: {error.detail}"
        raise PackedFormatError(subject, error.rule, detail) from None


def decode(tensor: PackedTensor) -> NDArray[Any]:
    """Return the codes of a tensor, whatever its codec."""
    return codec(tensor).decode(tensor)


def stored_bits(tensor: PackedTensor) -> int:
    """Return the bits that a tensor takes in memory, padding and scales included."""
    return codec(tensor).stored_bits(tensor)

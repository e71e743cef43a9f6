# SPDX-License-Identifier: Apache-2.0
"""Memory behind a pair of streams: addresses in, beats out (docs/engines/w4a8.md, section 7)."""

from __future__ import annotations

from collections.abc import Sequence

from verif.lib.streams import StreamDriver


class Memory:
    """Answers a request in cycle t from cycle t + latency on, in order; past its end it reads 0.

    Parameters
    ----------
    responses : StreamDriver
        The stream that the device accepts.
    unit_bytes : int
        Bytes that one address step stands for.
    beat_bytes : int
        Bytes of a response.
    """

    def __init__(self, responses: StreamDriver, unit_bytes: int, beat_bytes: int) -> None:
        self._responses = responses
        self._unit_bytes = unit_bytes
        self._beat_bytes = beat_bytes
        self._image = b""
        self._latency = 1

    def load(self, image: bytes, latency: int) -> None:
        """Replace the contents and the latency in cycles, at least 1."""
        self._image = image
        self._latency = latency

    def request(self, cycle: int, address: int) -> None:
        """Take a request that was transferred in `cycle`."""
        start = address * self._unit_bytes
        data = self._image[start : start + self._beat_bytes]
        self._responses.send(int.from_bytes(data, "little"), cycle + self._latency)


class RowMemory:
    """Answers a request for several rows as `Memory` answers one for consecutive bytes.

    Parameters
    ----------
    responses : StreamDriver
        The stream that the device accepts.
    row_bits : int
        Bits of a row of a response, the first in the low bits.
    """

    def __init__(self, responses: StreamDriver, row_bits: int) -> None:
        self._responses = responses
        self._row_bits = row_bits
        self._latency = 1
        self._unasked = 0

    def start(self, latency: int, unasked: int) -> None:
        """Set the latency in cycles, and what comes in place of rows that were not asked for."""
        self._latency = latency
        self._unasked = unasked

    def request(self, cycle: int, image: Sequence[int], rows: Sequence[int | None]) -> None:
        """Take a request that was transferred in `cycle`.

        Parameters
        ----------
        cycle : int
        image : sequence of int
            Contents, row by row.
        rows : sequence of int or None
            Addresses; None where no row is asked for.
        """
        payload = 0
        for lane, row in enumerate(rows):
            if row is None:
                data = self._unasked
            else:
                data = image[row] if row < len(image) else 0
            payload |= data << lane * self._row_bits
        self._responses.send(payload, cycle + self._latency)

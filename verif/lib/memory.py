# SPDX-License-Identifier: Apache-2.0
"""Memory behind a pair of streams: addresses in, beats out (docs/engines/w4a8.md, section 7)."""

from __future__ import annotations

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

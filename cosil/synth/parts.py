# SPDX-License-Identifier: Apache-2.0
"""What a package says of its engine: one `EngineParts` each, in the module of its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cosil.registry import resolve


@dataclass(frozen=True, slots=True)
class EngineParts:
    """One engine's part of its package.

    Attributes
    ----------
    title : str
        A few words for the core file.
    job_words : sequence of (str, str)
        Name and meaning of each 32-bit word of stream `job_stream`, word 0 first.
    describe : callable
        Spec -> first paragraph of the register page.
    streams : callable
        Spec -> what each stream carries, by its name without prefix.
    defines : callable
        Spec -> constants of the C header.
    vectors : callable
        Spec -> what `smoke_test.py` drives and expects: `inputs` (stream -> beats), `memories`
        (stream -> element_bits, beat_bits, elements), `exchanges` (stream -> requests, responses)
        and `memory_latency`, `outputs` (stream -> results), `cycles`, and `result_bits` where
        results have addresses.
    job_stream : str
        The stream of jobs.
    """

    title: str
    job_words: tuple[tuple[str, str], ...]
    describe: Callable[[Any], str]
    streams: Callable[[Any], Mapping[str, str]]
    defines: Callable[[Any], Mapping[str, int]]
    vectors: Callable[[Any], Mapping[str, Any]]
    job_stream: str = "job"


def numbered(beats: Sequence[int], last_at: int) -> list[list[int]]:
    """Return the results of a stream that ends jobs by its bit `last_at`, as `vectors` has them.

    Each beat is under its number, with tlast above tdata, which is of whole bytes.
    """
    tdata_bits = -(-last_at // 8) * 8
    low = (1 << last_at) - 1
    return [[n, beat & low | beat >> last_at << tdata_bits] for n, beat in enumerate(beats)]


def parts_of(engine: str) -> EngineParts:
    """Return the parts of a registered engine, `PARTS` of the module of its name."""
    return resolve(f"cosil.synth.{engine}:PARTS")

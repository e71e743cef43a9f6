# SPDX-License-Identifier: Apache-2.0
"""Fuzz `cosil.packed.file.load`: mutated files give `PackedFormatError` or what the file says.

Two campaigns of equal size, deterministic for a seed. *raw*: bytes are cut, flipped, moved and
rewritten, so that mostly containers and digests are met. *signed*: manifest, header and data are
changed and all digests recomputed, so that the checks behind them are met. A mutant fails the
campaign if loading raises anything else, takes over ten seconds or too much memory, or returns a
network that differs from an independent reading of the file.

    python -m benchmarks.fuzz_packed --mutants 10000 --json
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import safetensors
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.fuzz_mutators import mutants
from benchmarks.fuzz_networks import cnn, pim, transformer, xnor
from cosil.packed import bitplane, int4, manifest
from cosil.packed.errors import PackedFormatError
from cosil.packed.file import load, save
from cosil.packed.header import ALLOWANCE
from cosil.packed.network import PackedNetwork

TIMEOUT_S = 10
_TWOS = dict(zip("0123456789abcdef", (*range(8), *range(-8, 0)), strict=True))
_OFFSET = dict(zip("0123456789abcdef", range(-8, 8), strict=True))


@dataclass
class Tally:
    """What a campaign saw.

    Attributes
    ----------
    outcomes : Counter
        Rule of the error, or "accepted", of each mutant.
    failures : list of str
        One line for each mutant that failed the campaign.
    peak_ratio : float
        Greatest peak memory over the file's size, of files above a quarter of the fixed allowance.
    peak_bytes : int
        Greatest peak memory of the smaller files.
    slowest_s : float
        Longest load.
    """

    outcomes: Counter[str] = field(default_factory=Counter[str])
    failures: list[str] = field(default_factory=list[str])
    peak_ratio: float = 0.0
    peak_bytes: int = 0
    slowest_s: float = 0.0


def originals(folder: Path) -> list[bytes]:
    """Return the bytes of the files that are mutated: small ones, and one where data dominates."""
    path = folder / "original.safetensors"
    files: list[bytes] = []
    for network in (
        cnn(),
        transformer(),
        transformer(1, dim=128, vocabulary=500),
        transformer(2, dim=32, engine="attention"),
        pim(),
        pim(3, decomposition="differential"),
        xnor(),
    ):
        save(network, path)
        files.append(path.read_bytes())
    return files


def examine(data: bytes, path: Path, tally: Tally) -> None:
    """Load one mutant, written to `path`, and count the outcome. Needs tracemalloc to be on."""
    path.write_bytes(data)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    start = time.perf_counter()
    network: PackedNetwork | None = None
    try:
        network = load(path)
        outcome = "accepted"
    except PackedFormatError as error:
        outcome = error.rule
    except Exception as error:  # any other exception is what we look for
        outcome = "crash"
        tally.failures.append(f"{type(error).__name__}: {error!s:.200}")
    seconds = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1] - before
    if peak > max(4 * len(data), ALLOWANCE):
        tally.failures.append(f"took {peak} bytes for a file of {len(data)} ({outcome})")
    if 4 * len(data) > ALLOWANCE:
        tally.peak_ratio = max(tally.peak_ratio, peak / len(data))
    else:
        tally.peak_bytes = max(tally.peak_bytes, peak)
    tally.slowest_s = max(tally.slowest_s, seconds)
    tally.outcomes[outcome] += 1
    if network is not None:
        difference = compare(network, data)
        if difference:
            tally.failures.append(f"accepted, but {difference}")


def compare(network: PackedNetwork, data: bytes) -> str:
    """Return how a network differs from what the file's bytes say; empty if it does not.

    The reading is independent of the loader: safetensors' own parser and nibble-by-nibble decoding.
    """
    try:
        arrays = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        return f"safetensors refuses the file: {error}"
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    said = json.loads(header["__metadata__"]["manifest"])
    plain = json.loads(manifest.render(network, said["sha256"]))
    if plain != said:
        return "the manifest differs"
    for node in network.nodes:
        for name, tensor in node.tensors.items():
            found = {f"{node.name}:{name}": tensor.words}
            found |= {f"{node.name}:{name}:{key}": value for key, value in tensor.scales.items()}
            for key, values in found.items():
                record = arrays.pop(key)
                if list(values.shape) != record["shape"] or values.tobytes() != record["data"]:
                    return f"tensor {key} differs"
            if tensor.codec == "int4" and int4.decode(tensor).tolist() != _nibbles(tensor):
                return f"the codes of {node.name}:{name} differ"
            if tensor.codec == "bitplane" and bitplane.decode(tensor).tolist() != _cells(tensor):
                return f"the codes of {node.name}:{name} differ"
    return f"{len(arrays)} tensors are left over" if arrays else ""


def _nibbles(tensor: Any) -> list[list[int]]:
    """Decode int4 by its hexadecimal digits: the last digit of a row's number is code 0."""
    codes = _OFFSET if tensor.params["encoding"] == "offset" else _TWOS
    rows = [row.astype("<u4").tobytes()[::-1].hex()[::-1] for row in tensor.words]
    return [[codes[digit] for digit in row[: tensor.shape[1]]] for row in rows]


def _cells(tensor: Any) -> list[list[int]]:
    """Decode bitplane from the binary digits of each group's number, word 0 lowest."""
    bits, rows = tensor.params["bits"], tensor.params["rows"]
    factors = [*(1 << p for p in range(bits - 1)), -(1 << (bits - 1))]
    if tensor.params["encoding"] == "differential":
        factors = [sign << p for sign in (1, -1) for p in range(bits - 1)]
    codes = [[0] * tensor.shape[1] for _ in range(tensor.shape[0])]
    for n, p, group in np.ndindex(tensor.words.shape[:3]):
        number = int.from_bytes(tensor.words[n, p, group].astype("<u8").tobytes(), "little")
        for row, digit in enumerate(f"{number:b}"[::-1]):
            codes[n][group * rows + row] += int(digit) * factors[p]
    return codes


def campaign(count: int, seed: int, *, signed: bool, folder: Path, progress: bool = False) -> Tally:
    """Examine `count` mutants and return what was seen."""
    tally = Tally()
    files = originals(folder)
    rng = np.random.default_rng([seed, signed])
    stream: Iterator[bytes] = mutants(files, rng, count, signed=signed)
    label = "signed" if signed else "raw"
    shown = track(stream, f"{label} mutants", total=count, disable=not progress, transient=True)
    tracemalloc.start()
    try:
        for index, data in enumerate(shown):
            failed = len(tally.failures)
            with _Deadline():
                examine(data, folder / "mutant.safetensors", tally)
            if len(tally.failures) > failed:
                kept = folder / f"{label}-{seed}-{index}.safetensors"
                kept.write_bytes(data)
                tally.failures[-1] += f" [{kept.name}]"
    finally:
        tracemalloc.stop()
    return tally


class _Deadline:
    """Raise TimeoutError inside the block after `TIMEOUT_S` seconds."""

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._expire)
        signal.alarm(TIMEOUT_S)

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)

    @staticmethod
    def _expire(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"no end after {TIMEOUT_S} s")


def main(argv: list[str] | None = None) -> int:
    """Run both campaigns, print a table or JSON; 1 if any mutant failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_packed", description=__doc__)
    parser.add_argument("--mutants", type=int, default=10_000, help="per campaign")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for mutants that fail")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    console = Console(stderr=args.json)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tallies = {
            label: campaign(
                args.mutants, args.seed, signed=signed, folder=folder,
                progress=console.is_terminal,
            )
            for label, signed in (("raw", False), ("signed", True))
        }  # fmt: skip
    if args.json:
        json.dump(_report(tallies, args.mutants, args.seed), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print(console, tallies)
    return 1 if any(tally.failures for tally in tallies.values()) else 0


def _report(tallies: dict[str, Tally], count: int, seed: int) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    for label, tally in tallies.items():
        numbers = (
            ("failures", len(tally.failures), "mutants", 0),
            ("peak_ratio", round(tally.peak_ratio, 3), "x file size", 4),
            ("peak_small", tally.peak_bytes, "bytes", ALLOWANCE),
            ("slowest", round(tally.slowest_s, 4), "s", TIMEOUT_S),
        )
        results += [
            {"name": f"{label}_{name}", "value": value, "unit": unit, "better": "lower", "bar": bar}
            for name, value, unit, bar in numbers
        ]
    return {
        "name": "fuzz_packed",
        "results": results,
        "outcomes": {label: dict(tally.outcomes.most_common()) for label, tally in tallies.items()},
        "failures": {label: tally.failures[:20] for label, tally in tallies.items()},
        "inputs": {"mutants": count, "seed": seed},
        "versions": {"numpy": np.__version__, "safetensors": safetensors.__version__},
    }


def _print(console: Console, tallies: dict[str, Tally]) -> None:
    table = Table("outcome", *tallies, title="packed files: mutants by outcome")
    for outcome in sorted(set().union(*(tally.outcomes for tally in tallies.values()))):
        table.add_row(outcome, *(str(tally.outcomes[outcome]) for tally in tallies.values()))
    table.add_section()
    table.add_row("failures", *(str(len(tally.failures)) for tally in tallies.values()))
    table.add_row(
        "peak memory / file size", *(f"{tally.peak_ratio:.2f}" for tally in tallies.values())
    )
    table.add_row("slowest load, s", *(f"{tally.slowest_s:.3f}" for tally in tallies.values()))
    console.print(table)
    for label, tally in tallies.items():
        for line in tally.failures[:20]:
            console.print(f"{label}: {line}", markup=False)


if __name__ == "__main__":
    sys.exit(main())

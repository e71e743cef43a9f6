# SPDX-License-Identifier: Apache-2.0
"""Accuracy of pruned attention: ``python -m benchmarks.spatten``.

Attention programs on a transformer trained here and, with COSIL_DATA, on stories260K: bits, LSB
rules, values, tokens, heads, fine-tuning. One thing is changed at a time; the loss is compared with
the same packed linear layers under float16 attention. A finished run is kept in a folder and not
repeated; --kept takes the finished ones alone. Prints the tables; --json for machines, --page
writes them into docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algos import qqq
from algos.lib.graph import FloatGraph
from algos.lib.measure import calibration_batches, float_logits, packed_logits
from algos.lib.metrics import Interval, paired_bootstrap
from algos.models.registry import load_model
from algos.models.tasks import Task
from algos.spatten import SpattenSettings, attach, compress
from algos.spatten.calibrate import collect, observe_rows
from benchmarks.accuracy import by_unit, units
from benchmarks.lib.runs import write_between
from cosil.lowering.attention_program import program
from cosil.packed.network import PackedNetwork

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "accuracy.md"
BEGIN, END = "<!-- begin: python -m benchmarks.spatten --page -->", "<!-- end spatten -->"
SAMPLES = 64

SOURCES = (
    *sorted((ROOT / "algos" / "spatten").glob("*.py")),
    *(
        ROOT / "algos" / "reference" / f"{name}.py"
        for name in ("attention", "attention_node", "attention_rows", "topk", "vector", "w4a8")
    ),
)
"""Files whose change makes a kept run stale."""

DENSE = {"tokens": 0.0, "values": 1.0, "msb_bits": 8, "rule": "always"}
"""Nothing pruned, 12-bit keys and 8-bit values: what one setting at a time departs from."""


@dataclass(frozen=True, slots=True)
class Case:
    """One line of a table.

    Attributes
    ----------
    label : str
        What stands in the table.
    settings : dict
        What differs from `DENSE`.
    """

    label: str
    settings: dict[str, Any] = field(default_factory=dict[str, Any])


def _bits() -> list[Case]:
    cases = [Case("12-bit keys, always")]
    for bits in (8, 6, 4):
        cases.append(Case(f"{bits} + 4, never", {"msb_bits": bits, "rule": "never"}))
        if bits < 8:
            cases.append(Case(f"{bits} + 4, always", {"msb_bits": bits}))
        static = {"msb_bits": bits, "lsb_bits": 0, "rule": "never"}
        cases.append(Case(f"{bits}, static", static))
    cases += [Case(f"values of {bits} bits", {"value_bits": bits}) for bits in (6, 4)]
    return cases


def _rules(bits: int) -> list[Case]:
    rules: list[tuple[str, str, tuple[float, ...]]] = [
        ("max_probability", "threshold", (0.05, 0.1, 0.2)),
        ("error_window", "threshold", (0.2, 0.1, 0.05)),
        ("measured", "budget", (0.06, 0.12, 0.25)),
    ]
    return [
        Case(f"{rule}, {name} {value:g}", {"msb_bits": bits, "rule": rule, name: value})
        for rule, name, values in rules
        for value in values
    ]


def _tokens(recent: Sequence[int], ratios: Sequence[float]) -> list[Case]:
    return [
        Case(
            f"{ratio:.0%} of tokens, {n} newest kept",
            {"tokens": ratio, "recent": n, "spread": min(0.5, 0.9 / ratio - 1)},
        )
        for n in recent
        for ratio in ratios
    ]


VALUES = [Case(f"{1 - keep:.0%} of values", {"values": keep}) for keep in (0.5, 0.3, 0.1)]
TUNED = {"tokens": 0.6, "spread": 0.0, "values": 0.2, "msb_bits": 6, "rule": "measured"}


@dataclass(frozen=True, slots=True)
class Network:
    """A network of the study.

    Attributes
    ----------
    name : str
        In `algos.models.registry`.
    limit : int or None
        Windows or documents of the evaluation; None is all.
    rule_bits : int
        MSBs of the comparison of rules.
    cases : list of (str, list of Case)
        Title and lines of each table.
    """

    name: str
    limit: int | None
    rule_bits: int
    cases: list[tuple[str, list[Case]]]


NETWORKS = (
    Network(
        "topics-gpt",
        64,
        4,
        [
            ("tokens", _tokens((0, 16), (0.3, 0.6, 0.8))),
            ("values", VALUES),
            ("bits", _bits()),
            ("heads", [Case(f"{n} of 4 heads", {"head_schedule": f"1, {n / 4}"}) for n in (3, 2)]),
            ("all", [Case("default settings", asdict(SpattenSettings()) | {"scales": "channel"}),
                     Case("60 % of tokens, 80 % of values", TUNED),
                     Case("the same, 200 steps of training", {**TUNED, "finetune_steps": 200})]),
        ],
    ),
    Network(
        "stories260k",
        None,
        6,
        [
            ("tokens", [*_tokens((0,), (0.15, 0.3)), *_tokens((16, 64), (0.15, 0.3, 0.5))]),
            ("values", VALUES),
            ("bits", _bits()),
            ("heads", [Case(f"{100 * r:g}% of heads", {"heads": r}) for r in (0.125, 0.25)]),
            ("all", [Case("default settings", asdict(SpattenSettings())),
                     Case("the same, 8 + 4 bits", asdict(SpattenSettings(msb_bits=8)))]),
        ],
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A measured line."""

    network: str
    table: str
    label: str
    loss: float
    perplexity: float
    change: Interval
    fetched: float | None = None
    row_error: float | None = None


class Study:
    """One network: its packed linear layers, data, and runs kept in `folder`."""

    def __init__(self, network: Network, folder: Path, limit: int | None, kept: bool) -> None:
        self.network, self.folder, self.kept = network, folder, kept
        self.limit = network.limit if limit is None else limit
        named = load_model(network.name)
        self.graph: FloatGraph = named.graph()
        self.task: Task = named.task
        self.batches: list[Tensor] = calibration_batches(self.task.calibration(0, SAMPLES))
        self.packed: PackedNetwork | None = None
        digest = hashlib.sha256()
        for path in SOURCES:
            digest.update(path.read_bytes())
        self.version = digest.hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        self.floats = self.task.evaluate(float_logits(self.graph), self.limit)
        self.unit = units(self.floats)
        base = self.losses("base", None)
        if base is None:
            raise SystemExit(f"{network.name}: no run is kept in {folder}; leave out --kept")
        self.base = base
        self.missing: list[str] = []

    def linear(self) -> PackedNetwork:
        """Return the network with packed linear layers and float16 attention."""
        if self.packed is None:
            self.packed = qqq.compress(self.graph, self.batches, qqq.QqqSettings())
        return self.packed

    def losses(self, label: str, settings: SpattenSettings | None) -> np.ndarray[Any, Any] | None:
        """Return each token's loss under a program (None: float16 attention), kept on disk."""
        key = {
            "network": self.network.name, "limit": self.limit, "version": self.version,
            "samples": SAMPLES, "settings": None if settings is None else asdict(settings),
        }  # fmt: skip
        text = json.dumps(key, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npy"
        if path.exists():
            return np.load(path)
        if self.kept:
            return None
        started = time.perf_counter()
        if settings is None:
            packed = self.linear()
        elif settings.finetune_steps:
            packed = compress(self.graph, self.batches, settings)
        else:
            packed = attach(self.linear(), self.batches, settings)
        nll = self.task.evaluate(packed_logits(packed), self.limit).nll
        temporary = path.with_suffix(f".{os.getpid()}.npy")
        np.save(temporary, nll)
        temporary.replace(path)
        seconds = time.perf_counter() - started
        print(f"{self.network.name}: {label}: loss {nll.mean():.4f}, {seconds:.0f} s",
              file=sys.stderr, flush=True)  # fmt: skip
        return nll

    def row(self, table: str, case: Case, **measured: float) -> Row | None:
        """Return the line of a case, None if only kept runs are asked for and it is none."""
        settings = SpattenSettings(**{**DENSE, **case.settings})
        nll = self.losses(case.label, settings)
        if nll is None:
            name = f"{table}: {case.label}"
            if name not in self.missing:
                self.missing.append(name)
            return None
        change = paired_bootstrap(by_unit([nll - self.base], self.unit))
        loss = float(nll.mean())
        return Row(
            self.network.name, table, case.label, loss, float(np.exp(loss)), change, **measured
        )

    def rules(self) -> list[Row]:
        """Return the comparison of LSB rules: rows of other data than the rule was chosen on.

        Every row of the evaluation's first samples is scored, whatever is pruned: fraction fetched,
        and mean L1 distance from the probabilities of whole keys that is left.
        """
        cases = _rules(self.network.rule_bits)
        if not any(self.row("rules", case) for case in cases):
            return []
        held_out = [next(iter(self.task.batches(8))).inputs[:8]]
        found = collect(self.linear(), held_out)
        made: list[Row] = []
        for case in cases:
            if self.row("rules", case) is None:
                continue
            settings = SpattenSettings(**{**DENSE, **case.settings})
            packed = attach(self.linear(), self.batches, settings)
            inside: list[np.ndarray[Any, Any]] = []
            left: list[np.ndarray[Any, Any]] = []
            for node in (node for node in packed.nodes if node.engine == "attention"):
                at = program(node)
                seen = observe_rows(node, at, found[node.name])
                fetch = (seen.logarithm >= at.lsb_low) & (seen.logarithm <= at.lsb_high)
                inside.append(fetch)
                left.append(np.where(fetch, 0.0, seen.error))
            fetched, error = float(np.concatenate(inside).mean()), np.concatenate(left)
            row = self.row("rules", case, fetched=fetched, row_error=float(error.mean()))
            assert row is not None
            made.append(row)
        return made

    def rows(self) -> list[Row]:
        """Return every line."""
        made = [self.row(title, case) for title, cases in self.network.cases for case in cases]
        return [row for row in made if row is not None] + self.rules()


TITLES = {
    "bits": "Bits of keys and values, nothing pruned",
    "values": "Local value pruning",
    "tokens": "Cascade token pruning (average over the layers that prune)",
    "heads": "Cascade head pruning",
    "all": "All together",
    "rules": "When a row fetches its LSBs",
}


def markdown(studies: Sequence[Study], rows: Sequence[Row]) -> str:
    """Return the tables of docs/accuracy.md."""
    lines = ["Brackets: 95 % bootstrap interval over windows or runs of 64 tokens.", ""]
    lines += ["| network | evaluation | float32 loss | packed linear layers, float16 attention |"]
    lines += ["|---|---|---|---|"]
    for study in studies:
        source = study.task.evaluation_source
        lines.append(
            f"| {study.network.name} | {source}: {len(study.base):,} tokens |"
            f" {study.floats.mean_nll:.4f} | {study.base.mean():.4f} |"
        )
    for study in studies:
        if study.missing:
            lines += ["", f"Not measured on {study.network.name}: {'; '.join(study.missing)}."]
    for table, title in TITLES.items():
        if not any(row.table == table for row in rows):
            continue
        rules = table == "rules"
        more = " rows that fetch | L1 error left |" if rules else ""
        lines += ["", f"**{title}.**", "",
                  f"| network | setting | loss | change | perplexity |{more}",
                  "|---|---|---|---|---|" + ("---|---|" if rules else "")]  # fmt: skip
        for row in (row for row in rows if row.table == table):
            bits = next(n.rule_bits for n in NETWORKS if n.name == row.network)
            label = f"{bits} + 4, {row.label}" if rules else row.label
            change = [100 * x / (row.loss - row.change.mean) for x in (
                row.change.mean, row.change.low, row.change.high)]  # fmt: skip
            line = (
                f"| {row.network} | {label} | {row.loss:.4f} |"
                f" {change[0]:+.2f} % [{change[1]:+.2f}, {change[2]:+.2f}] |"
                f" {row.perplexity:.3f} |"
            )
            if rules:
                line += f" {row.fetched:.1%} | {row.row_error:.4f} |"
            lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="results as JSON")
    parser.add_argument("--page", action="store_true", help="write docs/accuracy.md")
    parser.add_argument("--kept", action="store_true", help="only runs that were made before")
    parser.add_argument("--limit", type=int, help="evaluation windows or documents")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument(
        "--networks", help="comma-separated; stories260k only with COSIL_DATA by default"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path.home() / ".cache" / "cosil" / "spatten",
        help="folder of finished runs",
    )  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    known = [network.name for network in NETWORKS]
    default = known if os.environ.get("COSIL_DATA") else known[:1]
    names = arguments.networks.split(",") if arguments.networks else default
    for name in set(names) - set(known):
        parser.error(f"unknown network {name!r}; known are {', '.join(known)}")
    chosen = [network for network in NETWORKS if network.name in names]
    studies = [
        Study(network, arguments.runs, arguments.limit, arguments.kept) for network in chosen
    ]
    rows = [row for study in studies for row in study.rows()]
    if arguments.page:
        write_between(PAGE, BEGIN, END, markdown(studies, rows))
    if arguments.json:
        record = {
            "name": "spatten",
            "results": [asdict(row) for row in rows],
            "inputs": {"limit": arguments.limit, "networks": names},
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        }
        print(json.dumps(record, indent=2))
    else:
        print(markdown(studies, rows))


if __name__ == "__main__":
    main()

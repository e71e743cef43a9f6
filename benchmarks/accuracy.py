# SPDX-License-Identifier: Apache-2.0
"""Accuracy of RTN and QQQ on real networks: ``python -m benchmarks.accuracy``.

Needs COSIL_DATA. Every network is compressed by both methods, per channel and per group, for
several calibration seeds, and executed by the exact reference. A finished run is kept in a folder
and not repeated. Prints tables or, with --json, the comparison with the bars; --page writes the
tables of docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algos.lib.calibrate import mode_of
from algos.lib.emit import bits_per_weight
from algos.lib.graph import FloatGraph
from algos.lib.measure import calibration_batches, float_logits, packed_logits
from algos.lib.metrics import Interval, kl_divergence, paired_bootstrap
from algos.models.registry import load_model
from algos.models.tasks import Evaluation, Task
from benchmarks.lib.runs import write_between
from cosil.cli.compress import settings_of
from cosil.registry import method as method_named

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "accuracy.md"
BEGIN, END = "<!-- begin: python -m benchmarks.accuracy --page -->", "<!-- end -->"
SEEDS = 5
BLOCK = 64
"""Tokens that the bootstrap draws together where documents are few."""

SOURCES = (
    "algos/rtn.py", "algos/qqq.py", "algos/reference/network.py", "algos/reference/vector.py",
    *(f"algos/lib/{name}.py" for name in (
        "calibrate", "clip", "emit", "gptq", "hadamard", "quantise", "rotation", "smooth")),
)  # fmt: skip
"""Files whose change makes a kept run stale."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A method with settings other than its defaults."""

    method: str
    scales: str
    group_size: int
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    samples: int | None = None
    """Calibration samples where they are not the network's."""

    def label(self) -> str:
        """Return the settings in words."""
        return ", ".join(f"{name} {value}" for name, value in self.options.items()) or "default"


@dataclass(frozen=True, slots=True)
class Network:
    """A network of the study.

    Attributes
    ----------
    name : str
        In `algos.models.registry`.
    samples : int
        Calibration images or sequences.
    limit : int or None
        Evaluation images or windows, spread over all; None is all.
    formats : tuple of (str, int)
        Scales and group size.
    tried : tuple of Variant
        Other settings, for the page's second table.
    beyond : tuple of Variant
        Methods beyond QQQ, for the first table.
    """

    name: str
    samples: int
    limit: int | None
    formats: tuple[tuple[str, int], ...]
    tried: tuple[Variant, ...] = ()
    beyond: tuple[Variant, ...] = ()


NETWORKS = (
    Network("resnet20", 128, None, (("channel", 128), ("group", 128))),
    Network(
        "stories260k",
        64,
        None,
        (("channel", 128), ("group", 128), ("group", 16)),
        (
            *(Variant("qqq", "group", size, {"rotation": "none"}) for size in (128, 16)),
            Variant("qqq", "group", 16, {"rotation": "none", "smoothing": True, "clip": "none"}),
            Variant("qqq", "group", 16, {"rotation": "none", "clip": "hessian"}),
            Variant("qqq", "group", 16, {"rotation": "none", "act_order": False}),
            Variant("qqq", "group", 16, {"rotation": "none", "damping": 0.1}),
            Variant("qqq", "group", 8, {"rotation": "none"}),
        ),
        (Variant("distil", "group", 16, samples=256),),
    ),
    Network("shakespeare-gpt", 64, 218, (("channel", 128), ("group", 128))),
)
METHODS = ("rtn", "qqq")
COLUMNS = (
    "network", "weights", "bits/weight", "method", "seeds", "loss (nats)", "change of loss",
    "KL to float", "top-1", "perplexity",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Per-item results of one compressed network, and its bits per weight."""

    nll: NDArray[np.float64]
    kl: NDArray[np.float64]
    correct: NDArray[np.bool_]
    bits: float


class Study:
    """Runs of the study, each computed once and kept in `folder`."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        self.folder = folder
        self.limit = limit
        self.loaded: dict[str, tuple[FloatGraph, Task]] = {}
        self.batches: dict[tuple[str, int, int], list[Tensor]] = {}
        self.floats: dict[str, Evaluation] = {}
        self.version = _digest(SOURCES)
        folder.mkdir(parents=True, exist_ok=True)

    def network(self, name: str) -> tuple[FloatGraph, Task]:
        """Return the named network and its task, loaded once."""
        if name not in self.loaded:
            named = load_model(name)
            self.loaded[name] = named.graph(), named.task
        return self.loaded[name]

    def limit_of(self, network: Network) -> int | None:
        """Return the number of evaluation samples."""
        return network.limit if self.limit is None else self.limit

    def calibration(self, network: Network, samples: int, seed: int) -> list[Tensor]:
        """Return the calibration batches of a seed, drawn once."""
        key = network.name, samples, seed
        if key not in self.batches:
            task = self.network(network.name)[1]
            self.batches[key] = calibration_batches(task.calibration(seed, samples))
        return self.batches[key]

    def float_evaluation(self, network: Network) -> Evaluation:
        """Return the float network's results."""
        if network.name not in self.floats:
            graph, task = self.network(network.name)
            evaluation = task.evaluate(float_logits(graph), self.limit_of(network))
            self.floats[network.name] = evaluation
        return self.floats[network.name]

    def run(self, network: Network, variant: Variant, seed: int) -> Run:
        """Return one run, from the folder where it is kept."""
        method, scales, group_size = variant.method, variant.scales, variant.group_size
        graph, task = self.network(network.name)
        if method == "rtn" and mode_of(graph) == "fp16":
            # Nothing is drawn and no data is read: one run stands for every seed.
            seed = 0
        values = {"scales": scales, "group_size": group_size, "seed": seed, **variant.options}
        settings = settings_of(method, values)
        samples = variant.samples or network.samples
        key = {
            "network": network.name,
            "method": method,
            "settings": asdict(settings),
            "samples": samples,
            "limit": self.limit_of(network),
            "version": self.version if method != "distil" else _digest(("algos/distil.py",)),
        }
        text = json.dumps(key, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"
        if path.exists():
            with np.load(path) as kept:
                return Run(kept["nll"], kept["kl"], kept["correct"], float(kept["bits"]))
        started = time.perf_counter()
        batches = self.calibration(network, samples, seed)
        packed = method_named(method).load()(graph, batches, settings)
        compressed = time.perf_counter()
        exact = self.float_evaluation(network)
        got = task.evaluate(packed_logits(packed), self.limit_of(network))
        kl = kl_divergence(torch.from_numpy(exact.logits), torch.from_numpy(got.logits)).numpy()
        run = Run(got.nll, kl, got.correct, bits_per_weight(packed))
        temporary = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(temporary, nll=run.nll, kl=run.kl, correct=run.correct, bits=run.bits, key=text)
        temporary.replace(path)
        print(
            f"{network.name} {method} {scales} {group_size} ({variant.label()}) seed {seed}: "
            f"KL {kl.mean():.5f}, "
            f"loss {got.nll.mean():.4f} (float {exact.nll.mean():.4f}), "
            f"{compressed - started:.0f} s + {time.perf_counter() - compressed:.0f} s",
            file=sys.stderr,
            flush=True,
        )
        return run


def _digest(names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a network in one format, by one method."""

    network: str
    seeds: int
    method: str
    scales: str
    group_size: int
    bits: float
    loss: float
    loss_float: float
    loss_change: Interval
    kl: Interval
    top1: float
    top1_float: float
    kl_below_rtn: Interval | None


def units(exact: Evaluation) -> NDArray[np.int64]:
    """Return the bootstrap unit of each item: its image or window, or 64 tokens of its document."""
    if len(np.unique(exact.group)) >= 100:
        return np.unique(exact.group, return_inverse=True)[1]
    position = np.zeros(len(exact.group), dtype=np.int64)
    for group in np.unique(exact.group):
        inside = exact.group == group
        position[inside] = np.arange(inside.sum()) // BLOCK
    return np.unique(exact.group * (1 + position.max()) + position, return_inverse=True)[1]


def by_unit(items: list[NDArray[np.float64]], unit: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return float64[seeds, units] whose mean is the mean over all items."""
    count = int(unit.max()) + 1
    return np.stack(
        [np.bincount(unit, weights=values, minlength=count) * (count / len(unit))
         for values in items]
    )  # fmt: skip


def rows_of(study: Study, network: Network, seeds: int, beyond_seeds: int) -> list[Row]:
    """Return the lines of one network, RTN first in each format."""
    exact = study.float_evaluation(network)
    unit = units(exact)
    rows: list[Row] = []
    for scales, group_size in network.formats:
        rtn: NDArray[np.float64] | None = None
        variants = [Variant(method, scales, group_size) for method in METHODS]
        variants += [v for v in network.beyond if (v.scales, v.group_size) == (scales, group_size)]
        for variant in variants:
            count = beyond_seeds if variant in network.beyond else seeds
            if count == 0:
                continue
            runs = [study.run(network, variant, seed) for seed in range(count)]
            kl = by_unit([run.kl for run in runs], unit)
            change = by_unit([run.nll - exact.nll for run in runs], unit)
            below = None if rtn is None else paired_bootstrap(rtn[:count] - kl)
            rtn = kl if rtn is None else rtn
            rows.append(
                Row(
                    network.name, count, variant.method, scales, group_size, runs[0].bits,
                    float(np.mean([run.nll.mean() for run in runs])), exact.mean_nll,
                    paired_bootstrap(change), paired_bootstrap(kl),
                    float(np.mean([run.correct.mean() for run in runs])), exact.accuracy, below,
                )
            )  # fmt: skip
    return rows


def results_of(rows: list[Row]) -> list[dict[str, Any]]:
    """Return the comparison with the bars, one record each (docs/json.md)."""
    results: list[dict[str, Any]] = []

    def add(name: str, value: float, unit: str, better: str, bar: float, ours: float, base: float):
        results.append(
            {"name": name, "value": value, "unit": unit, "better": better, "bar": bar,
             "ours": ours, "baseline": base}
        )  # fmt: skip

    for row in (row for row in rows if row.method != "rtn"):
        form = "channel" if row.scales == "channel" else f"group{row.group_size}"
        form += "" if row.method == "qqq" else f"_{row.method}"
        if row.network == "resnet20" and row.scales == "channel":
            drop = 100 * (row.top1_float - row.top1)
            add("resnet20_channel_drop", drop, "points", "lower", 1.0,
                100 * row.top1, 100 * row.top1_float)  # fmt: skip
        if row.network != "resnet20" and row.scales == "group":
            change = 100 * (row.loss / row.loss_float - 1)
            add(f"{row.network}_{form}_loss", change, "%", "lower", 2.0, row.loss, row.loss_float)
        rtn = next(
            r for r in rows
            if (r.network, r.method, r.scales, r.group_size)
            == (row.network, "rtn", row.scales, row.group_size)
        )  # fmt: skip
        assert row.kl_below_rtn is not None
        # Zero must lie below the whole interval, so its lower end is what the bar holds.
        add(f"{row.network}_{form}_kl_below_rtn", row.kl_below_rtn.low, "nats", "higher", 0.0,
            row.kl.mean, rtn.kl.mean)  # fmt: skip
    return results


def markdown(rows: list[Row]) -> str:
    """Return the tables of docs/accuracy.md."""
    lines = [
        "Means over seeds; brackets: 95 % bootstrap interval over seeds and samples.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
    ]
    seen: set[str] = set()
    for row in rows:
        if row.network not in seen:
            seen.add(row.network)
            lines.append(
                f"| {row.network} | float32 | 32 | | | {row.loss_float:.4f} | | |"
                f" {100 * row.top1_float:.2f} % | {_perplexity(row.network, row.loss_float)} |"
            )
        change = [100 * v / row.loss_float for v in (
            row.loss_change.mean, row.loss_change.low, row.loss_change.high)]  # fmt: skip
        form = "per channel" if row.scales == "channel" else f"groups of {row.group_size}"
        lines.append(
            f"| {row.network} | {form} | {row.bits:.2f} | {row.method} | {row.seeds} |"
            f" {row.loss:.4f} |"
            f" {change[0]:+.2f} % [{change[1]:+.2f}, {change[2]:+.2f}] |"
            f" {row.kl.mean:.4f} [{row.kl.low:.4f}, {row.kl.high:.4f}] |"
            f" {100 * row.top1:.2f} % | {_perplexity(row.network, row.loss)} |"
        )
    lines += [
        "",
        "| bar | measured | demanded | met |",
        "|---|---|---|---|",
    ]
    for item in results_of(rows):
        sign = "<=" if item["better"] == "lower" else ">"
        lines.append(
            f"| `{item['name']}` | {item['value']:.4f} {item['unit']} |"
            f" {sign} {item['bar']:g} {item['unit']} | {'yes' if met(item) else 'no'} |"
        )
    return "\n".join(lines)


def tried(study: Study, networks: list[Network], seeds: int) -> str:
    """Return the table of other settings, each on its network's first seeds."""
    columns = (
        "network", "weights", "bits/weight", "method", "settings", "change of loss", "KL to float",
    )  # fmt: skip
    lines = [
        "",
        f"Other settings, means over {seeds} of these seeds:",
        "",
        f"| {' | '.join(columns)} |",
        "|" + "---|" * len(columns),
    ]
    for network in networks:
        for variant in network.tried:
            exact = study.float_evaluation(network)
            runs = [study.run(network, variant, seed) for seed in range(seeds)]
            loss = float(np.mean([run.nll.mean() for run in runs]))
            kl = float(np.mean([run.kl.mean() for run in runs]))
            form = "per channel" if variant.scales == "channel" else "groups of "
            form += "" if variant.scales == "channel" else str(variant.group_size)
            lines.append(
                f"| {network.name} | {form} | {runs[0].bits:.2f} | {variant.method} |"
                f" {variant.label()} | {100 * (loss / exact.mean_nll - 1):+.2f} % | {kl:.4f} |"
            )
    return "\n".join(lines)


def met(item: dict[str, Any]) -> bool:
    """Return whether a result reaches its bar."""
    if item["better"] == "lower":
        return item["value"] <= item["bar"]
    return item["value"] > item["bar"]


def _perplexity(network: str, loss: float) -> str:
    return "" if network == "resnet20" else f"{math.exp(loss):.3f}"


def main() -> None:
    """Run the study and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the comparison with the bars")
    parser.add_argument("--page", action="store_true", help="write the tables of docs/accuracy.md")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="calibration seeds")
    parser.add_argument("--beyond-seeds", type=int, default=SEEDS, help="seeds of distil")
    parser.add_argument("--tried-seeds", type=int, default=1, help="seeds of other settings")
    parser.add_argument("--limit", type=int, help="evaluation samples of every network")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--networks", default=",".join(n.name for n in NETWORKS))
    parser.add_argument(
        "--runs", type=Path, default=Path.home() / ".cache" / "cosil" / "accuracy",
        help="folder of finished runs",
    )  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    study = Study(arguments.runs, arguments.limit)
    names = arguments.networks.split(",")
    for name in set(names) - {network.name for network in NETWORKS}:
        parser.error(f"unknown network {name!r}; known are {', '.join(n.name for n in NETWORKS)}")
    chosen = [network for network in NETWORKS if network.name in names]
    rows = [
        row
        for network in chosen
        for row in rows_of(study, network, arguments.seeds, arguments.beyond_seeds)
    ]
    if arguments.page:
        table = markdown(rows)
        table += "\n" + tried(study, chosen, arguments.tried_seeds)
        write_between(PAGE, BEGIN, END, table)
    if arguments.json:
        inputs = {"seeds": arguments.seeds, "limit": arguments.limit, "sources": study.version}
        versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
        record = {
            "name": "accuracy",
            "results": results_of(rows),
            "rows": [asdict(row) for row in rows],
            "inputs": inputs,
            "versions": versions,
        }
        print(json.dumps(record, indent=2))
    else:
        print(markdown(rows))


if __name__ == "__main__":
    main()

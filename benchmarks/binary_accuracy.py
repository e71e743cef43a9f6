# SPDX-License-Identifier: Apache-2.0
"""Accuracy of binary training: ``python -m benchmarks.binary_accuracy``.

All binarisers on one network and the bundled digits, with one budget: accuracy of the packed
network on the exact reference, and how often weights change their sign. A finished run is kept in a
folder and not repeated; --kept takes the finished ones alone. Prints the table; --json for
machines, --page writes it into docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from algos.binary import BINARISERS, BinarySettings, packed, trained
from algos.lib.measure import float_logits, packed_logits
from algos.lib.threads import one_thread
from algos.models.registry import NamedModel, load_model
from algos.models.tasks import ImageTask
from benchmarks.lib.runs import Runs, version_of, write_between

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "accuracy.md"
BEGIN = "<!-- begin: python -m benchmarks.binary_accuracy --page -->"
END = "<!-- end binary_accuracy -->"
SOURCES = (
    *sorted((ROOT / "algos" / "binary").glob("*.py")),
    *sorted((ROOT / "algos" / "lib" / "qat").glob("*.py")),
)
"""Files whose change makes a kept run stale."""

RANDOM_BIAS = 0.5
ROWS: Mapping[str, dict[str, Any]] = {
    **{name: {"binariser": name} for name in BINARISERS},
    f"recu, bias_init {RANDOM_BIAS}": {"binariser": "recu", "bias_init": RANDOM_BIAS},
}
PUBLISHED = {
    "irnet": ("86.5", "90.4"), "recu": ("87.5", "92.2"), "reste": ("86.75", "92.55"),
    "biper": ("86.98", "92.46"),
}  # fmt: skip
"""CIFAR-10 top-1 of ResNet-20 and VGG-small, from the papers' own pages."""


@dataclass(frozen=True, slots=True)
class Row:
    """One method: a value a seed.

    Attributes
    ----------
    accuracy : list of float
        Of the packed network, a fraction.
    flips : list of float
        Mean fraction of the binary weights whose code a step changes.
    silent : list of float
        Fraction of them whose code never changed.
    """

    label: str
    accuracy: list[float]
    flips: list[float]
    silent: list[float]


def run(named: NamedModel, settings: BinarySettings) -> dict[str, float]:
    """Train on all calibration images and return accuracy, flips and silent."""
    assert isinstance(named.task, ImageTask)
    samples = named.task.inputs(named.task.calibration_images)
    with one_thread():
        student = trained(named.graph(), samples, settings)
        network = packed(student, samples[: settings.start_samples], {})
        accuracy = named.task.evaluate(packed_logits(network)).accuracy
    flips = float(np.mean(student.flips)) if student.flips else 0.0
    silent = 1 - float(student.ever.float().mean())
    return {"accuracy": accuracy, "flips": flips, "silent": silent}


def rows_of(
    named: NamedModel, base: Mapping[str, Any], seeds: int, runs: Runs, names: Sequence[str]
) -> list[Row]:
    """Return the methods all of whose seeds are there."""
    version = version_of(SOURCES)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for seed in range(seeds):
        for name in names:
            settings = BinarySettings(**{**base, **ROWS[name], "seed": seed})
            key = {"network": named.name, "settings": asdict(settings), "version": version}
            value = runs.once(key, lambda settings=settings: run(named, settings))
            if value is not None:
                found[name].append(value)
                if not runs.kept:
                    text = f"seed {seed}: {name}: {value['accuracy']:.4f}"
                    print(text, file=sys.stderr, flush=True)
    return [
        Row(name, *([value[key] for value in values] for key in ("accuracy", "flips", "silent")))
        for name, values in found.items()
        if len(values) == seeds
    ]


def markdown(named: NamedModel, base: Mapping[str, Any], seeds: int, rows: Sequence[Row]) -> str:
    """Return the table with what it was obtained with."""
    settings = BinarySettings(**base)
    reference = 100 * named.task.evaluate(float_logits(named.graph())).accuracy
    head = (
        f"**{named.name}.** Trained on {named.task.calibration_source}, towards the float network's"
        f" outputs; evaluated on {named.task.evaluation_source}, packed, on the exact reference;"
        f" seeds: {seeds}; the same for all: steps {settings.steps}, batch {settings.batch}, rate"
        f" {settings.rate}, decay {settings.decay}. float32 {reference:.2f}. Flips: weights whose"
        " code a step changes; silent: weights whose code never changed. Published: CIFAR-10 top-1,"
        " W1A1, trained on 50,000 images."
    )
    lines = [
        head,
        "",
        "| binariser | accuracy % | flips a step % | silent % | published ResNet-20 | VGG-small |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -float(np.mean(row.accuracy))):
        published = " | ".join(PUBLISHED.get(row.label, ("", "")))
        numbers = f"{_percent(row.accuracy)} | {_percent(row.flips)} | {_percent(row.silent)}"
        lines.append(f"| {row.label} | {numbers} | {published} |")
    return "\n".join(lines)


def _percent(values: Sequence[float]) -> str:
    mean = f"{100 * float(np.mean(values)):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * float(np.std(values, ddof=1)):.2f}"


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    parser.add_argument("--page", action="store_true", help="write docs/accuracy.md")
    parser.add_argument("--kept", action="store_true", help="only runs that were made before")
    parser.add_argument("--network", default="digits-vgg")
    parser.add_argument("--methods", help="some of the rows, separated by semicolons")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rate", type=float, default=BinarySettings().rate)
    parser.add_argument(
        "--runs", type=Path, default=Path.home() / ".cache" / "cosil" / "binary_accuracy",
        help="folder of finished runs",
    )  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = arguments.methods.split(";") if arguments.methods else list(ROWS)
    for name in set(names) - set(ROWS):
        parser.error(f"unknown method {name!r}; known are {'; '.join(ROWS)}")
    base = {"steps": arguments.steps, "rate": arguments.rate}
    named = load_model(arguments.network)
    rows = rows_of(named, base, arguments.seeds, Runs(arguments.runs, arguments.kept), names)
    text = markdown(named, base, arguments.seeds, rows)
    if arguments.page:
        write_between(PAGE, BEGIN, END, text)
    if arguments.json:
        record = {
            "name": "binary_accuracy",
            "results": [asdict(row) for row in rows],
            "inputs": {"network": named.name, **base, "seeds": arguments.seeds},
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        }
        print(json.dumps(record, indent=2))
    else:
        print(text)


if __name__ == "__main__":
    main()

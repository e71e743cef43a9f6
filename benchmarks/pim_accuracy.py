# SPDX-License-Identifier: Apache-2.0
"""Accuracy behind low-resolution ADCs: ``python -m benchmarks.pim_accuracy``.

Conventional quantised training, deployed directly, against PIM-QAT, by ADC bits, for the three
decompositions, on an ideal and on a non-ideal chip; what each part of the training buys; what a
searched ADC grid buys. On the bundled digits, and with COSIL_DATA on MNIST and on CIFAR-10. A
finished run is kept in a folder and not repeated; --kept takes the finished ones alone. Prints the
tables; --json for machines, --page writes them into docs/accuracy.md, --plot draws them.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algos.data.folder import data_file
from algos.data.images import Images
from algos.lib.graph import FloatGraph
from algos.lib.measure import float_logits, packed_logits
from algos.lib.threads import one_thread
from algos.models.registry import load_model
from algos.models.tasks import ImageTask
from algos.pim_qat import PimQatSettings, deployed, trained
from algos.pim_qat.emission import packed
from algos.pim_qat.macro import put_arrays
from algos.pim_qat.student import Student
from benchmarks.lib.pim_plots import draw
from benchmarks.lib.pim_tables import Cell, markdown, percent, results_of
from benchmarks.lib.runs import Runs, version_of, write_between
from cosil.cli.compress import parse_options, settings_of
from cosil.packed.decomposition import DECOMPOSITIONS, Decomposition

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "accuracy.md"
BEGIN, END = "<!-- begin: python -m benchmarks.pim_accuracy --page -->", "<!-- end pim_accuracy -->"

SOURCES = (
    *sorted((ROOT / "algos" / "lib" / "qat").glob("*.py")),
    *sorted((ROOT / "algos" / "pim_qat").glob("*.py")),
    ROOT / "cosil" / "lowering" / "pim_transfer.py",
    ROOT / "algos" / "reference" / "pim.py",
)
"""Files whose change makes a kept run stale."""

BITS = (3, 5, 7, 10)
ALL_BITS = tuple(range(3, 11))
CHIP = {"gain_sigma": 0.01, "offset_sigma": 0.25, "inl_peak": 0.5, "noise_sigma": 0.35}
"""The non-ideal chip: errors of each column and noise of each conversion, LSB of its ADCs."""
IDEAL = dict.fromkeys(CHIP, 0.0)
ADCS = {"ideal": IDEAL, "non-ideal": CHIP}
DIRECT = {"pim_training": False, "bn_calibration": False}
"""Conventional quantised training, deployed as it is."""
TRAININGS = {"conventional": DIRECT, "PIM-QAT": {}}
ABLATION_BITS = 5
GRID_BITS = (3, 4, 5, 7)

HEAD = (
    "Top-1 accuracy in %, mean and standard deviation over seeds. Non-ideal: each column's gain"
    f" (σ {CHIP['gain_sigma']:.0%}), offset (σ {CHIP['offset_sigma']} LSB) and INL (peak"
    f" {CHIP['inl_peak']} LSB), noise of each conversion (σ {CHIP['noise_sigma']} LSB); training"
    " does not know the chip, norms are calibrated on it."
)

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Network:
    """A network of the study.

    Attributes
    ----------
    name : str
        In `algos.models.registry`.
    base : dict
        Settings of all its runs.
    seeds : int
        Runs of each cell.
    small : bool
        Every cell is the packed network on the exact reference, and the tables of ablation and
        grids are made; else the student's forward pass is evaluated.
    """

    name: str
    base: dict[str, Any]
    seeds: int
    small: bool = False


NETWORKS = (
    Network(
        "digits-cnn",
        {"rows": 144, "slice_bits": 4, "steps": 100},
        3,
        small=True,
    ),
    Network("mnist-cnn", {"rows": 144, "slice_bits": 4, "steps": 150, "rate": 0.02}, 1),
    Network(
        "resnet20",
        {"rows": 144, "slice_bits": 4, "steps": 2000, "batch": 128, "shift": 4, "flip": True},
        1,
    ),
)

ABLATION: dict[str, dict[str, Any]] = {
    "all parts": {},
    "conventional training, deployed as it is": DIRECT,
    "conventional training, norms calibrated": {"pim_training": False},
    "without BN calibration": {"bn_calibration": False},
    "without backward rescaling": {"backward_rescale": False},
    "without forward rescaling": {"forward_rescale": False},
    "without either rescaling": {"backward_rescale": False, "forward_rescale": False},
    "adjusted precision: one bit less": {"train_adc_bits": ABLATION_BITS - 1},
    "adjusted precision: one bit more": {"train_adc_bits": ABLATION_BITS + 1},
    "the chip's errors in the training": {"error_training": True},
    "grid searched": {"grid": "search"},
}
"""What is switched, in both columns of the ablation table."""


def _jpegs(path: Path) -> Images:
    """Return the images of an NPZ file with a blob of JPEG files, their offsets and labels."""
    # Pillow comes with matplotlib and is needed here only.
    from PIL import Image

    with np.load(path, allow_pickle=False) as archive:
        blob, offsets, labels = (archive[name] for name in ("blob", "offsets", "labels"))
    pixels: list[np.ndarray[Any, Any]] = []
    for first, last in pairwise(offsets.tolist()):
        with Image.open(io.BytesIO(blob[first:last].tobytes()), formats=["JPEG"]) as image:
            pixels.append(np.asarray(image.convert("RGB"), np.uint8))
    return Images(np.stack(pixels).transpose(0, 3, 1, 2), labels.astype(np.int64))


@dataclass(slots=True)
class Study:
    """One network: its data, and runs kept in `folder`."""

    network: Network
    folder: Path
    kept: bool
    limit: int | None
    device: torch.device
    overrides: dict[str, Any]
    seeds: int
    task: ImageTask = field(init=False)
    samples: Tensor = field(init=False)
    training_source: str = field(init=False)
    version: str = field(init=False)
    graph: FloatGraph = field(init=False)
    _last: tuple[PimQatSettings, Student] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        named = load_model(self.network.name)
        assert isinstance(named.task, ImageTask)
        self.graph, self.task = named.graph(), named.task
        images = self.task.inputs(self.task.calibration_images)
        self.training_source = self.task.calibration_source
        if self.network.name == "resnet20":
            more = _jpegs(data_file("cifar10/cifar10_train20k_jpeg.npz"))
            images = torch.cat([images, self.task.inputs(more)])
            self.training_source += " and 20,000 as JPEG"
        self.samples = images.to(self.device)
        self.version = version_of(SOURCES)

    def base(self) -> dict[str, Any]:
        """Return the settings that all runs share."""
        return {**self.network.base, **self.overrides}

    def settings(self, seed: int, **values: Any) -> PimQatSettings:
        """Return the settings of a run; the seed is the chip's too."""
        return PimQatSettings(**{**self.base(), "seed": seed, "chip_seed": seed, **values})

    def float_accuracy(self) -> float:
        """Return the float network's accuracy."""
        return self.task.evaluate(float_logits(self.graph), self.limit).accuracy

    def once(self, key: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """Return what `compute` gave when it ran for this key; None if it may not run now."""
        key = {**key, "network": self.network.name, "version": self.version}
        return Runs(self.folder, self.kept).once(key, compute)

    def accuracy(self, settings: PimQatSettings, *, digital: bool = False) -> float | None:
        """Return one run's accuracy; None if only kept runs are asked for and it is none.

        Parameters
        ----------
        settings : PimQatSettings
            Training and chip.
        digital : bool
            The trained network with exact sums, no array.
        """

        def compute() -> float:
            student = self.training(settings)
            if digital:
                return self._evaluated(student)
            chip = deployed(student, self.samples, settings)
            return self._packed(chip, settings) if self.network.small else self._evaluated(chip)

        key = {"limit": self.limit, "digital": digital, "settings": asdict(settings),
               "device": self.device.type}  # fmt: skip
        return self.once(key, compute)

    def training(self, settings: PimQatSettings) -> Student:
        """Return the trained student; the last one is not trained again for another chip."""
        same = {**IDEAL, "bn_calibration": True, "chip_seed": 0}
        if not settings.pim_training:
            same |= {"adc_bits": 7, "decomposition": "bit_serial", "grid": "B"}
        key = settings if settings.error_training else replace(settings, **same)
        if self._last is None or self._last[0] != key:
            with one_thread():
                self._last = key, trained(self.graph, self.samples, settings)
        return self._last[1]

    def _packed(self, chip: Student, settings: PimQatSettings) -> float:
        network = packed(chip, self.samples[: settings.start_samples], settings, {})
        return self.task.evaluate(packed_logits(network), self.limit).accuracy

    def _evaluated(self, student: Student) -> float:
        noise = torch.Generator(self.device).manual_seed(0)

        def logits(x: Tensor) -> Tensor:
            return student.forward(x.to(self.device), None, noise).cpu()

        return self.task.evaluate(logits, self.limit).accuracy

    def cells(
        self, bits: Sequence[int], decompositions: Sequence[Decomposition] = DECOMPOSITIONS
    ) -> list[Cell]:
        """Return every cell whose runs are there."""
        plan = list(self._plan(bits, decompositions))
        for seed in range(self.seeds):
            # Cells that share a training follow each other.
            for index, (table, label, at, values) in enumerate(plan):
                settings = self.settings(seed, **values)
                value = self.accuracy(settings, digital=table == "digital")
                if value is not None and not self.kept:
                    where = f"{self.network.name}, seed {seed}, {index + 1} of {len(plan)}"
                    what = f"{label}, {' '.join(map(str, at))}"
                    print(f"{where}: {what}: {value:.4f}", file=sys.stderr, flush=True)
        made: list[Cell] = []
        for table, label, at, values in plan:
            found = [
                self.accuracy(self.settings(seed, **values), digital=table == "digital")
                for seed in range(self.seeds)
            ]
            there = [value for value in found if value is not None]
            if len(there) == len(found):
                made.append(Cell(self.network.name, table, label, *at, there))
        return made

    def _plan(
        self, bits: Sequence[int], decompositions: Sequence[Decomposition]
    ) -> Iterator[tuple[str, str, tuple[str, int, str], Values]]:
        """Yield table, label, (decomposition, ADC bits, ADC) and settings of each cell."""
        yield "digital", "exact sums", ("", 0, ""), {**DIRECT}

        def cell(
            table: str, label: str, at: tuple[str, int, str], values: Values
        ) -> tuple[str, str, tuple[str, int, str], Values]:
            macro = {"decomposition": at[0], "adc_bits": at[1], **ADCS[at[2]]}
            return table, label, at, {**macro, **values}

        for training, values in TRAININGS.items():
            for decomposition, b, adc in product(decompositions, bits, ADCS):
                yield cell("bits", training, (decomposition, b, adc), values)
        if not self.network.small:
            return
        for decomposition, b, grid in product(DECOMPOSITIONS, GRID_BITS, ("B", "search")):
            values = {"pim_training": False, "grid": grid}
            yield cell("grid", grid, (decomposition, b, "ideal"), values)
        for (label, values), adc in product(ABLATION.items(), ADCS):
            yield cell("ablation", label, ("bit_serial", ABLATION_BITS, adc), values)

    def title(self, cells: Sequence[Cell]) -> str:
        """Return data, settings and what is left without an array, in words."""
        base = ", ".join(f"{name} {value}" for name, value in self.base().items())
        limit = "" if self.limit is None else f" ({self.limit} of them)"
        exact = [percent(cell) for cell in cells if cell.table == "digital"]
        return (
            f"**{self.network.name}.** Trained on {self.training_source}; evaluated on"
            f" {self.task.evaluation_source}{limit}; seeds: {self.seeds}; {base}."
            f" float32 {100 * self.float_accuracy():.2f}; conventional training with exact sums"
            f" {exact[0] if exact else 'not run'}."
        )

    def grids(self) -> list[dict[str, Any]]:
        """Return k, l and CSNR of each layer: the search on the first seed's digital network."""
        made: list[dict[str, Any]] = []
        if not self.network.small:
            return made
        for decomposition, b in product(DECOMPOSITIONS, GRID_BITS):
            settings = self.settings(
                0, decomposition=decomposition, adc_bits=b, grid="search", pim_training=False
            )

            def compute(settings: PimQatSettings = settings) -> dict[str, Any]:
                chip = self.training(settings).copy()
                found = put_arrays(
                    chip, settings, self.samples[: settings.start_samples],
                    adc_bits=settings.adc_bits, errors=False, rescale=False,
                )  # fmt: skip
                return {name: asdict(choice) for name, choice in found.items()}

            found = self.once({"grids": asdict(settings)}, compute)
            made += [
                {"decomposition": decomposition, "adc_bits": b, "layer": name, **choice}
                for name, choice in (found or {}).items()
            ]
        return made


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="cells and bars as JSON")
    parser.add_argument("--page", action="store_true", help="write docs/accuracy.md")
    parser.add_argument("--kept", action="store_true", help="only runs that were made before")
    parser.add_argument("--full", action="store_true", help="ADC bits 3 to 10, not four of them")
    parser.add_argument("--bits", help="comma-separated ADC bits; 3,5,7,10 by default")
    parser.add_argument("--decompositions", default=",".join(DECOMPOSITIONS))
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw the figures there")
    parser.add_argument("--networks", default=NETWORKS[0].name, help="comma-separated")
    parser.add_argument("--seeds", type=int, help="runs of each cell")
    parser.add_argument("--limit", type=int, help="evaluation images")
    parser.add_argument("--device", default="cpu", help="of the training: cpu, cuda")
    parser.add_argument(
        "--set", dest="options", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of all runs, e.g. --set steps=20",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument(
        "--runs", type=Path, default=Path.home() / ".cache" / "cosil" / "pim_accuracy",
        help="folder of finished runs",
    )  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    known = {network.name: network for network in NETWORKS}
    names = arguments.networks.split(",")
    for name in set(names) - set(known):
        parser.error(f"unknown network {name!r}; known are {', '.join(known)}")
    texts = parse_options(tuple(arguments.options))
    typed = asdict(settings_of("pim_qat", texts))
    bits = ALL_BITS if arguments.full else BITS
    if arguments.bits:
        bits = tuple(int(text) for text in arguments.bits.split(","))
    wanted = arguments.decompositions.split(",")
    decompositions: list[Decomposition] = [name for name in DECOMPOSITIONS if name in wanted]
    cells: list[Cell] = []
    tables: list[str] = []
    for name in names:
        study = Study(
            known[name], arguments.runs, arguments.kept, arguments.limit,
            torch.device(arguments.device), {key: typed[key] for key in texts},
            arguments.seeds or known[name].seeds,
        )  # fmt: skip
        made, grids = study.cells(bits, decompositions), study.grids()
        cells += made
        tables.append(markdown(study.title(made), made, grids))
    text = "\n\n".join([HEAD, *tables])
    if arguments.plot:
        draw(arguments.plot, [asdict(cell) for cell in cells], CHIP)
    if arguments.page:
        write_between(PAGE, BEGIN, END, text)
    if arguments.json:
        record = {
            "name": "pim_accuracy",
            "results": results_of(cells),
            "cells": [asdict(cell) for cell in cells],
            "inputs": {"networks": names, "bits": list(bits), "limit": arguments.limit},
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        }
        print(json.dumps(record, indent=2))
    else:
        print(text)


if __name__ == "__main__":
    main()

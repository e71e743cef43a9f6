# SPDX-License-Identifier: Apache-2.0
"""`cosil compress`: from a network to a packed file."""

from __future__ import annotations

import importlib
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cosil.cli.lib import emit_json, emit_table, json_option
from cosil.errors import CosilError
from cosil.registry import METHODS
from cosil.registry import method as method_named

if TYPE_CHECKING:
    from algos.lib.graph import FloatGraph
    from algos.models.tasks import Task
    from cosil.packed.network import PackedNetwork


@click.command(epilog="Example: cosil compress resnet20 --method qqq --data DIR -o resnet20.cosil")
@click.argument("model")
@click.option("--method", required=True, help=f"One of {', '.join(METHODS)} (`cosil methods`).")
@click.option("--data", type=click.Path(path_type=Path), help="Data folder; else COSIL_DATA.")
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path),
    help="The packed file.",
)  # fmt: skip
@click.option(
    "--scales", type=click.Choice(["channel", "group"]),
    help="One weight scale per output channel (the default), or per group of its inputs.",
)  # fmt: skip
@click.option("--group-size", type=int, help="Inputs of a group; 128 by default.")
@click.option("--seed", default=0, show_default=True, help="Of calibration data and method.")
@click.option("--samples", default=128, show_default=True, help="Calibration samples.")
@click.option("--limit", type=int, help="Evaluation samples; all by default.")
@click.option(
    "--set", "options", multiple=True, metavar="NAME=VALUE",
    help="Another setting of the method, e.g. --set rotation=none; may be repeated.",
)  # fmt: skip
@json_option
def compress(
    model: str,
    method: str,
    data: Path | None,
    output: Path,
    scales: str | None,
    group_size: int | None,
    seed: int,
    samples: int,
    limit: int | None,
    options: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compress MODEL, print its accuracy before and after, and save it.

    MODEL is digits-cnn, digits-vgg, topics-gpt, mnist-cnn, resnet20, stories260k, shakespeare-gpt,
    or module:callable with a callable that returns an nn.Module and a task (algos.models.tasks).
    """
    from algos.models.registry import load_model
    from cosil.packed.file import save

    started = time.perf_counter()
    if samples < 1:
        raise CosilError(f"--samples must be at least 1, not {samples!r}")
    # Only what is given: not every method has these two.
    chosen = {"scales": scales, "group_size": group_size, "seed": seed}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    settings = settings_of(method, chosen | parse_options(options))
    named = load_model(model, data, show=sys.stderr.isatty())
    graph = named.graph()
    network = compress_measured(graph, named.task, method, settings, samples, limit)
    save(network, output)
    record = network.provenance
    result = {key: record[key] for key in ("method", "metric", "before", "after")}
    result["bits_per_weight"] = record["bits_per_weight"]
    if as_json:
        emit_json(result)
        return
    emit_table(
        ("network", "method", "weights", record["metric"], "after", "bits/weight", "seconds"),
        [[
            named.name, method, _format(settings), record["before"], record["after"],
            record["bits_per_weight"], time.perf_counter() - started,
        ]],
    )  # fmt: skip
    for note in record["notes"]:
        click.echo(f"note: {note}")


def _format(settings: Any) -> str:
    if not hasattr(settings, "scales"):
        return "per layer"
    return "per channel" if settings.scales == "channel" else f"groups of {settings.group_size}"


def compress_measured(
    graph: FloatGraph,
    task: Task,
    method: str,
    settings: Any,
    samples: int,
    limit: int | None = None,
) -> PackedNetwork:
    """Compress a network and write its metric before and after into the provenance.

    Parameters
    ----------
    graph, task
        The float network, its calibration data and its evaluation data.
    method : str
        Name in the registry.
    settings
        The method's settings (`settings_of`).
    samples : int
        Calibration samples, drawn with the settings' seed.
    limit : int, optional
        Evaluation samples.

    Returns
    -------
    PackedNetwork
        Provenance holds besides the method's record ``data``, ``metric``, ``before``, ``after``
        and ``bits_per_weight``.
    """
    from algos.lib.emit import bits_per_weight
    from algos.lib.measure import calibration_batches, float_logits, packed_logits

    batches = calibration_batches(task.calibration(settings.seed, samples))
    before = task.evaluate(float_logits(graph), limit).value
    network = method_named(method).load()(graph, batches, settings)
    after = task.evaluate(packed_logits(network), limit).value
    data = {"calibration": task.calibration_source, "evaluation": task.evaluation_source}
    measured = {
        "data": data,
        "metric": task.metric,
        "before": before,
        "after": after,
        "bits_per_weight": bits_per_weight(network),
    }
    return replace(network, provenance={**network.provenance, **measured})


def settings_of(method: str, values: dict[str, Any]) -> Any:
    """Return the settings object of a method.

    Parameters
    ----------
    method : str
        Name in the registry.
    values : dict
        Setting -> value; a string is read as the type of the setting's default.

    Raises
    ------
    CosilError
        If the method or a setting is unknown, or a value is not legal.
    """
    module = importlib.import_module(method_named(method).function.partition(":")[0])
    kind: Any = module.SETTINGS
    known = {field.name: field.default for field in fields(kind)}
    typed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise CosilError(
                f"{method} has no setting {name!r}", f"its settings are {', '.join(known)}"
            )
        typed[name] = _typed(name, value, known[name]) if isinstance(value, str) else value
    try:
        return kind(**typed)
    except ValueError as error:
        raise CosilError(str(error)) from error


def _typed(name: str, text: str, default: object) -> object:
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise CosilError(f"setting {name} must be true or false, not {text!r}")
        return text == "true"
    if isinstance(default, str):
        return text
    kind = int if isinstance(default, int) else float
    try:
        return kind(text)
    except ValueError as error:
        raise CosilError(f"setting {name} must be of type {kind.__name__}, not {text!r}") from error


def parse_options(options: tuple[str, ...]) -> dict[str, str]:
    """Return NAME=VALUE texts as a dict."""
    parsed: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise CosilError(f"--set takes NAME=VALUE, not {option!r}")
        parsed[name] = value
    return parsed

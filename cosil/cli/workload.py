# SPDX-License-Identifier: Apache-2.0
"""`cosil workload`: a pruning schedule as rows of attention."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from cosil.cli.lib import emit_json, json_option
from cosil.errors import CosilError

_BITS = click.Choice(["4", "6", "8"])


@click.command(
    epilog="Example: cosil workload --heads 12 --keys 0.9,0.7,0.2x4,0.1x6 --values 0.2 "
    "--key-bits 6 --value-bits 6 --requantised 0.1 -o small.csv"
)
@click.option("--heads", required=True, metavar="LIST", help="Heads by layer: 16x16,13x6,10x2.")
@click.option(
    "--keys", required=True, metavar="LIST",
    help="Keys by layer: counts, or fractions (with a point) of the context: 0.9,0.7,0.2x4.",
)  # fmt: skip
@click.option("--values", default=1.0, show_default=True, help="Fraction of a row's values.")
@click.option("--context", default=1024, show_default=True, type=click.IntRange(1, 1 << 20))
@click.option("--passes", default=32, show_default=True, type=click.IntRange(1), help="Tokens.")
@click.option("--head-dim", default="64", show_default=True, type=click.Choice(
    ["8", "16", "32", "64", "128"]))  # fmt: skip
@click.option("--key-bits", default="8", show_default=True, type=_BITS, help="MSBs of a key.")
@click.option("--value-bits", default="8", show_default=True, type=_BITS)
@click.option("--requantised", default=1.0, show_default=True, help="Fraction of rows with LSBs.")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
@json_option
def workload(
    heads: str, keys: str, values: float, context: int, passes: int, head_dim: str, key_bits: str,
    value_bits: str, requantised: float, output: Path, as_json: bool,
) -> None:  # fmt: skip
    """Write what a pruned transformer fetches, row by row, as `simulate --workload` reads it.

    Heads and keys are lists by layer; NxM stands for M layers of N, and the last entry of the
    shorter list for all further layers. The first pass prunes no tokens.
    """
    from cosil.lowering.workload import Schedule, totals, workload_text
    from verif.lib.toolchain import write_atomically

    by_layer = _list("--heads", heads), _list("--keys", keys)
    layers = max(map(len, by_layer))
    full = [[*entries, *[entries[-1]] * (layers - len(entries))] for entries in by_layer]
    if any(isinstance(entry, float) for entry in full[0]):
        raise CosilError(f"--heads must be counts, not {heads!r}")
    schedule = Schedule(
        tuple(int(entry) for entry in full[0]), tuple(full[1]), values, context, passes,
        int(head_dim), int(key_bits), int(value_bits), requantised,
    )  # fmt: skip
    rows = schedule.rows()
    write_atomically(output, workload_text(rows))
    asked = totals(rows)
    if as_json:
        emit_json({"file": output, **asdict(asked)})
    else:
        click.echo(
            f"wrote {output}: {asked.rows:,} rows, {asked.keys:,} keys, {asked.values:,} values"
        )


def _list(option: str, text: str) -> list[int | float]:
    """Return the entries of a list like ``0.9,204x4``."""
    entries: list[int | float] = []
    for part in text.split(","):
        number, _, times = part.strip().partition("x")
        try:
            entry = float(number) if "." in number else int(number)
            count = int(times or 1)
        except ValueError:
            count = 0
            entry = 0
        if not (1 <= count <= 4096 and entry > 0 and (isinstance(entry, int) or entry <= 1)):
            raise CosilError(
                f"{option} must be a list like 0.9,0.7,204x4, not {text!r}",
                "counts are integers, fractions have a point and are at most 1.0",
            )
        entries += [entry] * count
    return entries

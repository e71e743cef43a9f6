# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the commands of cosil, one after another, on two small networks.

Everything it shows is printed by the commands themselves; the page repeats it with the figures.
"""

from __future__ import annotations

import base64
import html
import io
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from cosil.cli import cli
from cosil.cli.lib import emit_table, load_network
from cosil.cli.survivors import survivors, write_survivors
from cosil.engines.w4a8 import W4A8Spec
from cosil.errors import CosilError

MACHINE = "w4a8-16x16-os"
METHODS = ("rtn", "qqq")
NETWORKS = {
    "digits-cnn": ["--samples", "256"],
    "topics-gpt": ["--scales", "group", "--group-size", "32", "--samples", "32", "--limit", "96"],
}
VERIFIED = ("digits-cnn", "head")
PRUNED = "topics-gpt"
ATTENTION_MACHINE = "w4a8-16x16-attention"
PRUNING = (
    "--scales", "group", "--group-size", "32", "--samples", "32", "--limit", "16",
    "--set", "token_schedule=0.8,0.4", "--set", "recent=8", "--set", "values=0.5",
)  # fmt: skip
MARKER = ".cosil-demo"


@dataclass(slots=True)
class Section:
    """One heading of the page: commands with what they printed, and figures."""

    title: str
    runs: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    figures: list[Path] = field(default_factory=list[Path])


class _Tee(io.StringIO):
    """Keeps what is printed for the page, and prints it."""

    def __init__(self) -> None:
        super().__init__()
        self._terminal = sys.stdout

    def write(self, text: str, /) -> int:
        self._terminal.write(text)
        return super().write(text)

    def flush(self) -> None:
        self._terminal.flush()


class Demo:
    """The steps of the demo and the page that they leave.

    Parameters
    ----------
    folder : Path
        Where files, figures and the page are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sections: list[Section] = []
        self._started = time.perf_counter()
        # Hardware tools take as long as everything else together: they run on the second core.
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._hardware: list[tuple[str, str, Future[str]]] = []

    def begin(self, title: str) -> Section:
        """Start a section."""
        seconds = time.perf_counter() - self._started
        click.echo(f"\n== {title}  [{seconds:.0f} s]")
        self.sections.append(Section(title))
        return self.sections[-1]

    def run(self, *arguments: str) -> None:
        """Run a command of cosil in this process and keep its output for the page."""
        line = shlex.join(["cosil", *arguments])
        click.echo(f"$ {line}", err=False)
        name, *rest = arguments
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        with redirect_stdout(_Tee()) as output:
            command.main(rest, f"cosil {name}", standalone_mode=False)
        self.sections[-1].runs.append((line, output.getvalue().rstrip()))

    def table(self, columns: tuple[str, ...], rows: list[list[Any]]) -> None:
        """Print a table and keep it for the page."""
        with redirect_stdout(_Tee()) as output:
            emit_table(columns, rows)
        self.sections[-1].runs.append(("", output.getvalue().rstrip()))

    def start(self, title: str, *arguments: str) -> None:
        """Start a command of cosil in a process of its own; `hardware` shows what it printed."""
        line = shlex.join(["cosil", *arguments])
        self._hardware.append((title, line, self._worker.submit(_output, arguments)))

    def compress(self) -> None:
        """Train the two networks, compress them, start the hardware's steps, and compare."""
        self.begin("Train two networks, compress them to 4-bit weights and 8-bit activations")
        rows: list[list[Any]] = []
        for name, options in NETWORKS.items():
            for method in METHODS:
                path = self.packed(name, method)
                self.run("compress", name, "--method", method, *options, "-o", str(path))
                record = load_network(path).provenance
                rows.append(
                    [name, method, record["metric"], record["before"], record["after"],
                     record["bits_per_weight"]]
                )  # fmt: skip
            if name == VERIFIED[0]:
                self.start_hardware()
        self.begin("Before and after")
        self.table(("network", "method", "metric", "float", "packed", "bits/weight"), rows)

    def simulate(self) -> None:
        """Run both networks on the array, every layer compared with the reference."""
        for name in NETWORKS:
            section = self.begin(f"{name} on {MACHINE}, every layer checked against the reference")
            figures = self.folder / "figures" / name
            trace = self.folder / f"{name}.trace.json"
            self.run(
                "simulate", str(self.packed(name, "qqq")), "--machine", MACHINE, "--data", name,
                "--check", "--plot", str(figures), "--trace", str(trace),
            )  # fmt: skip
            section.figures = sorted(figures.glob("*.png")) or sorted(figures.glob("*.svg"))

    def prune(self) -> None:
        """Prune the transformer's attention, run it on the attention engine, plot who survives."""
        section = self.begin(f"Prune {PRUNED}: tokens, values, and key bits on demand")
        path = self.packed(PRUNED, "spatten")
        self.run("compress", PRUNED, "--method", "spatten", *PRUNING, "-o", str(path))
        self.run("simulate", str(path), "--machine", ATTENTION_MACHINE, "--data", PRUNED, "--check")
        figure = self.folder / "figures" / "survivors.png"
        figure.parent.mkdir(parents=True, exist_ok=True)
        text, ids = _window(PRUNED)
        write_survivors(survivors(load_network(path), ids), text, figure)
        section.figures.append(figure)

    def start_hardware(self) -> None:
        """Start generating the array's Verilog, and a layer of the packed network in RTL."""
        spec = self.folder / "w4a8-16x16.toml"
        spec.write_text(W4A8Spec(epilogue="fixed").to_toml(), encoding="utf-8")
        self.start(
            "The Verilog of that array",
            "verilog", str(spec), "-o", str(self.folder / "verilog"), "--no-cells",
        )  # fmt: skip
        name, layer = VERIFIED
        self.start(
            f"Layer {layer} of {name}: RTL, simulator and reference",
            "verify", "w4a8", "--network", str(self.packed(name, "qqq")), "--layer", layer,
        )  # fmt: skip

    def hardware(self) -> None:
        """Show what the hardware's steps printed, waiting for them."""
        for title, line, output in self._hardware:
            section = self.begin(title)
            click.echo(f"$ {line}")
            printed = output.result()
            click.echo(printed)
            section.runs.append((line, printed))

    def packed(self, name: str, method: str) -> Path:
        """Return the packed file of a network."""
        return self.folder / f"{name}-{method}.cosil"

    def write_page(self) -> Path:
        """Write the page, which needs no other file."""
        path = self.folder / "index.html"
        body = "\n".join(_section(section) for section in self.sections)
        path.write_text(_PAGE.replace("BODY", body), encoding="utf-8")
        return path


def _window(name: str) -> tuple[str, NDArray[np.int64]]:
    """Return the first evaluation window of a character model, as text and as numbers."""
    from algos.data.text import ASCII
    from algos.models.registry import load_model

    ids = next(iter(load_model(name).task.batches(1))).inputs[0].numpy()
    return "".join(ASCII[i] for i in ids), ids


def _output(arguments: tuple[str, ...]) -> str:
    """Return what a command of cosil prints; a failure ends the demo with its message."""
    program = "import sys; from cosil.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()
        raise CosilError(f"cosil {arguments[0]} failed: {said}", "run the command by itself")
    return done.stdout.rstrip()


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    for line, output in section.runs:
        command = f"<b>$ {html.escape(line)}</b>\n" if line else ""
        parts.append(f"<pre>{command}{html.escape(output)}</pre>")
    for figure in section.figures:
        kind = "svg+xml" if figure.suffix == ".svg" else "png"
        data = base64.b64encode(figure.read_bytes()).decode()
        parts.append(f'<img alt="{figure.stem}" src="data:image/{kind};base64,{data}">')
    return "\n".join(parts)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>cosil demo</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
pre { background: #f6f8fa; padding: .8rem; overflow-x: auto; font-size: 12.5px; line-height: 1.35 }
img { max-width: 100%; margin: .5rem 0 }
h2 { border-bottom: 1px solid #ddd; padding-bottom: .2rem; margin-top: 2.2rem }
</style></head><body>
<h1>cosil: one set of bits, one count of cycles</h1>
BODY
</body></html>
"""


def _empty_folder(folder: Path) -> None:
    """Make the folder, or empty the one that an earlier demo left."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise CosilError(
            f"{str(folder)!r} is not empty and no demo wrote it", "name another folder"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


@click.command(epilog="Example: cosil demo demo")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="demo")
def demo(folder: Path) -> None:
    """Train, compress, prune, simulate, generate and verify two small networks, into FOLDER."""
    _empty_folder(folder)
    show = Demo(folder)
    show.compress()
    show.simulate()
    show.prune()
    show.hardware()
    page = show.write_page()
    click.echo(f"\nwrote {page}")


def main() -> None:
    """Run `cosil demo` with the given arguments."""
    cli.main(["demo", *sys.argv[1:]])


if __name__ == "__main__":
    main()

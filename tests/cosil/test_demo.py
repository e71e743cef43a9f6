# SPDX-License-Identifier: Apache-2.0
"""The demo keeps what the commands print for its page, and guards other people's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.fuzz_networks import transformer
from cosil.cli.demo import Demo, demo
from cosil.cli.survivors import survivors, write_survivors
from cosil.errors import CosilError


def test_page_repeats_what_was_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command's output is printed and stands on the page, escaped, with the figures inside."""
    show = Demo(tmp_path)
    section = show.begin("Engines & methods")
    show.run("methods")
    show.table(("a<b", "value"), [["x", 1.5]])
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"\x89PNG")
    section.figures.append(figure)
    printed = capsys.readouterr().out
    page = show.write_page().read_text(encoding="utf-8")
    assert "$ cosil methods" in printed
    assert "qqq" in printed
    assert "<h2>Engines &amp; methods</h2>" in page
    assert "qqq" in page
    assert "a&lt;b" in page
    assert 'src="data:image/png;base64,iVBORw=="' in page


def test_folder_of_others_is_not_emptied(tmp_path: Path) -> None:
    """A folder with files that no demo wrote is refused and stays as it is."""
    (tmp_path / "mine.txt").write_text("keep")
    result = CliRunner().invoke(demo, [str(tmp_path)])
    assert isinstance(result.exception, CosilError)
    assert str(result.exception) == f"{str(tmp_path)!r} is not empty and no demo wrote it"
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_survivors_are_the_lists_of_each_decoded_token(tmp_path: Path) -> None:
    """One triangle a layer: nothing from later tokens, the counts that the program asks for."""
    network = transformer(2, dim=32, engine="attention")
    lists = survivors(network, np.arange(20))
    kept = lists["attention"]
    assert not np.triu(kept, 1).any()
    # 60 % of the tokens so far, three newest first; the first token of a sequence stays.
    assert [max(1, t * 6 // 10) for t in range(1, 21)] == kept.sum(axis=1).tolist()
    assert kept[19, 17:].all()
    write_survivors(lists, "abcdefgh$ \nlmnopqrst", tmp_path / "survivors.png")
    assert (tmp_path / "survivors.png").read_bytes()[:4] == b"\x89PNG"

# SPDX-License-Identifier: Apache-2.0
"""What the pages promise exists: links, engine table, commands, test names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cosil.cli import COMMANDS
from cosil.machine.summary import MODELLED
from cosil.registry import ENGINES

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file or folder of the repository."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    missing = [
        target for target in targets if "://" not in target and not (page.parent / target).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("name", ENGINES)
def test_engine_table_links_every_face(name: str) -> None:
    """The README's row of an engine leads to its page and to each of its faces."""
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` "))
    links = re.findall(r"\]\(([^)]+)\)", row)
    modules = [entry.partition(":")[0] for entry in ENGINES[name].faces().values()]
    expected = [f"docs/engines/{name}.md"]
    for module in modules:
        folder = ROOT / module.replace(".", "/")
        file = folder if folder.is_dir() else folder.with_suffix(".py")
        expected.append(str(file.relative_to(ROOT)))
    assert expected == links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_tests_exist(page: Path) -> None:
    """A test that a page cites, tests/FILE.py::NAME, is there under that name."""
    cited = re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text(encoding="utf-8"))
    missing = [
        f"{file}::{name}"
        for file, name in cited
        if not (ROOT / file).exists()
        or f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_commands_exist(page: Path) -> None:
    """`make X`, `cosil X` and `python -m benchmarks.X` in a page can be typed."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`([^`\n]+)`", text)
    code = "\n".join([*blocks, *inline])
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z][a-z-]*)", code, re.MULTILINE)) <= targets
    assert set(re.findall(r"^cosil ([a-z]+)", code, re.MULTILINE)) <= set(COMMANDS)
    for module in re.findall(r"python -m benchmarks\.([a-z0-9_]+)", code):
        assert (ROOT / "benchmarks" / f"{module}.py").exists(), module


def test_shown_output_ends_as_the_command_does() -> None:
    """The README's example of `cosil simulate` closes with the line that is printed today."""
    assert MODELLED in README.splitlines()

# SPDX-License-Identifier: Apache-2.0
"""Compiled kernels are kept apart for every state of the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import sim

SCRIPT = "import {first}sim, numba; print(numba.config.CACHE_DIR)"


def cache_folder(checkout: Path, cache: Path, first: str = "") -> str:
    env = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-c", SCRIPT.format(first=first)]
    env |= {"COSIL_CACHE": str(cache), "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        command, env=env, cwd=checkout, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_any_change_under_sim_gives_a_new_folder(tmp_path: Path) -> None:
    """Numba overlooks changes in the files of called kernels; the folder's name does not."""
    package = Path(sim.__file__).parent
    shutil.copytree(package, tmp_path / "sim", ignore=shutil.ignore_patterns("__pycache__"))
    before = cache_folder(tmp_path, tmp_path / "cache")
    assert Path(before).parent == tmp_path / "cache" / "numba"
    assert before == cache_folder(tmp_path, tmp_path / "cache", first="numba, ")
    callee = next((tmp_path / "sim" / "lib").glob("*.py"))
    callee.write_text(callee.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert before != cache_folder(tmp_path, tmp_path / "cache")

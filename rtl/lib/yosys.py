# SPDX-License-Identifier: Apache-2.0
"""Running Yosys, as the package pyosys brings it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from cosil.errors import ToolFailedError

# Apart from this process: Yosys logs to file descriptor 1 and ends the process on an error.
_SCRIPT = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for line in sys.argv[1:]:
    libyosys.run_pass(line, design)
"""


def run_yosys(passes: Sequence[str], *, subject: str) -> str:
    """Run Yosys commands on one design, one after the other.

    Parameters
    ----------
    passes : sequence of str
        Commands as a Yosys script has them; the first reads the design from a file.
    subject : str
        What is worked on, for the error message.

    Returns
    -------
    str
        The log.

    Raises
    ------
    ToolFailedError
        If Yosys fails; the message ends with its log.
    """
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *passes], capture_output=True, text=True, check=False
    )
    log = done.stdout + done.stderr
    if done.returncode != 0:
        raise ToolFailedError(f"yosys failed on {subject}:\n{log[-4000:]}")
    return log

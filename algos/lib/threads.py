# SPDX-License-Identifier: Apache-2.0
"""How many threads torch computes with."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Generator[None]:
    """Compute with one thread within the block; leave the number as it was.

    For training: the order of a sum, and so the weights, would depend on the number of threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

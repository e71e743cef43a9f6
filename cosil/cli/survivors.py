# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false
# matplotlib leaves its **kwargs untyped.
"""Which tokens a network with cascade pruning keeps, layer by layer, while it reads a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosil.packed.network import PackedNetwork

Lists = dict[str, NDArray[np.bool_]]
"""Attention node -> bool[L, L]: whether token j is in the list while token t is decoded."""

_SHOWN = {" ": "␣", "\n": "↵", "$": r"\$"}
"""Characters that would not be seen, or that matplotlib reads as markup."""


def survivors(network: PackedNetwork, ids: NDArray[np.integer]) -> Lists:
    """Decode one sequence with the reference and note each layer's list at each token.

    Parameters
    ----------
    network : PackedNetwork
        A network with attention programs.
    ids : int[L]
        Token numbers.
    """
    import torch

    from algos.lib.float_ops import KVCache
    from algos.lib.measure import decode
    from algos.reference.attention_node import Cascade
    from algos.reference.network import Reference

    length = len(ids)
    lists: Lists = {}

    def note(cache: KVCache) -> None:
        assert isinstance(cache.cascade, Cascade)
        for step in cache.cascade.steps:
            kept = lists.setdefault(step.name, np.zeros((length, length), dtype=np.bool_))
            kept[cache.length - 1, step.ids[0].numpy()] = True

    decode(Reference(network), torch.from_numpy(ids.astype(np.int64))[None], note)
    return lists


def write_survivors(lists: Lists, text: str, path: Path) -> None:
    """Write the figure: one panel a layer, tokens from left to right, time downwards.

    Parameters
    ----------
    lists : dict
        From `survivors`.
    text : str
        One character (or other short label) a token.
    path : Path
        A .png file.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    length = len(text)
    figure = Figure(figsize=(6.4 * len(lists), 6.2), layout="constrained")
    colours = ListedColormap(["#ffffff", "#e76f51", "#2a9d8f"])
    past = np.tril(np.ones((length, length), dtype=np.int64))
    panels = figure.subplots(1, len(lists), squeeze=False)[0]
    for axes, (name, kept) in zip(panels, lists.items(), strict=True):
        axes.imshow(past + kept, cmap=colours, vmin=0, vmax=2, interpolation="nearest")
        share = kept[-1].mean()
        axes.set_title(f"{name}: {share:.0%} of the tokens in the list at the end", fontsize=9)
        axes.set_xticks(range(length), [_SHOWN.get(c, c) for c in text], fontsize=6)
        axes.set_ylabel("token being decoded", fontsize=8)
        axes.tick_params(axis="y", labelsize=7)
        axes.tick_params(axis="x", length=0)
    figure.suptitle("green: in the list, red: pruned", fontsize=10)
    figure.savefig(path, dpi=130)

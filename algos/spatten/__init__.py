# SPDX-License-Identifier: Apache-2.0
"""SpAtten: cascade token and head pruning, local value pruning, progressive quantisation.

Source: Wang, Zhang, Han, "SpAtten: Efficient Sparse Attention Architecture with Cascade Token and
Head Pruning", arXiv 2012.09852 v3. Linear layers are compressed by an existing method; every
attention node then gets a program for engine `attention` (docs/packed-format.md): bits, scales, the
LSB rule, and how many tokens, heads and values it keeps.

Where paper and published workload files differ, or the paper says nothing:

===============  ==============================  ========================  =======================
part             paper                           workload files (GPT-2)    here
===============  ==============================  ========================  =======================
token schedule   first 15 % of layers unpruned,  stairs of counts: 1024,   `tokens` (as the paper),
                 then linear                     1024, 921, 819, ...       or `token_schedule`
ratio of a       L1 (1 - p), L1 not defined      of the context's 1024     of all tokens
layer
value ratio      of the row's keys               floor of the row's keys   the same, at least 1
LSB rule         max p < 0.1                     max p < 0.05              a window of L, `rule`
query bits       not given                       16                        12
newest tokens    pruned first: their sums are    (authors' LLM code: the   the last `recent` are
                 the youngest                    last 150 are kept)        kept
===============  ==============================  ========================  =======================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from algos import qqq, rtn
from algos.lib.calibrate import mode_of
from algos.lib.emit import multiplier
from algos.lib.graph import FloatGraph
from algos.lib.provenance import provenance_of
from algos.spatten.calibrate import Heads, collect, observe_rows, scales
from algos.spatten.finetune import finetune
from algos.spatten.rules import NEVER, RULES, Rule, window
from algos.spatten.schedule import HEADS_UNPRUNED, TOKENS_UNPRUNED, Keep, cascade, explicit, linear
from cosil.lowering.attention_program import QUERY_BITS, program
from cosil.packed import raw
from cosil.packed.network import Node, PackedNetwork

OUTPUT_LIMIT = 32767
OUTPUT_MARGIN = 1 + 2**-6
"""Room above the largest value: the probabilities of a row sum to 1 within 2**-7."""

_CHOICES: dict[str, tuple[Any, ...]] = {
    "linears": ("qqq", "rtn"),
    "msb_bits": (4, 6, 8),
    "lsb_bits": (0, 4),
    "value_bits": (4, 6, 8),
    "rule": RULES,
}


@dataclass(frozen=True, slots=True)
class SpattenSettings:
    """Hyper-parameters.

    Parameters
    ----------
    scales, group_size : str, int
        Of the linear layers' weights, as for `rtn` and `qqq`.
    linears : {"qqq", "rtn"}
        Method of the linear layers.
    tokens, heads : float
        Average fraction of tokens (heads) pruned in the layers that prune, by the published
        schedule; 0 prunes none.
    spread : float
        Steepness of that schedule, see `algos.spatten.schedule.linear`.
    recent : int
        Newest tokens that are kept whatever their importance; 0 is as published.
    values : float
        Fraction of a row's values that are read.
    token_schedule, head_schedule, value_schedule : str
        One entry a layer in place of the above: the fraction to keep, or a count above one; the
        last entry stands for all further layers.
    msb_bits, lsb_bits, value_bits : int
        Bits of key codes and of value codes; `lsb_bits` 0 has static key codes.
    rule : str
        When a row fetches LSBs, see `algos.spatten.rules.window`.
    threshold : float
        Of ``max_probability`` (0.1 in the paper) or ``error_window``.
    budget : float
        Of ``measured``: fraction of rows that may fetch.
    finetune_steps : int
        Updates of the float network with pruned attention in its forward pass, before its linear
        layers are compressed; 0 is none.
    finetune_rate : float
        Largest learning rate of these.
    seed : int
        Of the linear layers' method, and of the order of training samples.
    """

    scales: Literal["channel", "group"] = "channel"
    group_size: int = 128
    linears: Literal["qqq", "rtn"] = "qqq"
    tokens: float = 0.3
    heads: float = 0.0
    spread: float = 0.5
    recent: int = 16
    values: float = 0.5
    token_schedule: str = ""
    head_schedule: str = ""
    value_schedule: str = ""
    msb_bits: int = 6
    lsb_bits: int = 4
    value_bits: int = 8
    rule: Rule = "measured"
    threshold: float = 0.1
    budget: float = 0.06
    finetune_steps: int = 0
    finetune_rate: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, legal in _CHOICES.items():
            value = getattr(self, name)
            if value not in legal:
                known = ", ".join(map(repr, legal))
                raise ValueError(f"spatten: {name} must be one of {known}, not {value!r}")
        for name in ("tokens", "heads", "spread"):
            linear(2, self.tokens if name == "spread" else getattr(self, name), spread=self.spread)
        if not 0 < self.values <= 1:
            raise ValueError(f"spatten: values must be above 0 and at most 1, not {self.values!r}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"spatten: threshold must be between 0 and 1, not {self.threshold!r}")
        if not 0 <= self.budget <= 1:
            raise ValueError(f"spatten: budget must be in 0..1, not {self.budget!r}")
        for name in ("finetune_steps", "recent"):
            if getattr(self, name) < 0:
                raise ValueError(f"spatten: {name} must be at least 0, not {getattr(self, name)!r}")
        if not self.finetune_rate > 0:
            raise ValueError(f"spatten: finetune_rate must be positive, not {self.finetune_rate!r}")
        self.base()

    def base(self) -> qqq.QqqSettings | rtn.RtnSettings:
        """Return the settings of the linear layers' method."""
        if self.linears == "rtn":
            return rtn.RtnSettings(self.scales, self.group_size, seed=self.seed)
        return qqq.QqqSettings(self.scales, self.group_size, seed=self.seed)


SETTINGS = SpattenSettings


@dataclass(frozen=True, slots=True)
class LayerKeep:
    """What one attention node keeps of tokens, heads and the values of a row."""

    tokens: Keep
    heads: int
    values: Keep


def schedule(settings: SpattenSettings, layers: int, heads: int) -> list[LayerKeep]:
    """Return what each attention layer keeps.

    Raises
    ------
    ValueError
        If an explicit schedule cannot be read, or has too many entries.
    """
    tokens = (
        explicit(settings.token_schedule, layers, "token_schedule")
        if settings.token_schedule
        else _published(layers, settings.tokens, TOKENS_UNPRUNED, settings.spread)
    )
    head = (
        explicit(settings.head_schedule, layers, "head_schedule")
        if settings.head_schedule
        else _published(layers, settings.heads, HEADS_UNPRUNED, settings.spread)
    )
    values = (
        explicit(settings.value_schedule, layers, "value_schedule")
        if settings.value_schedule
        else [Keep.part(settings.values)] * layers
    )
    counts = [keep.of(heads) for keep in cascade(head)]
    return [
        LayerKeep(token, count, value)
        for token, count, value in zip(cascade(tokens), counts, values, strict=True)
    ]


def _published(layers: int, average: float, unpruned: float, spread: float) -> list[Keep]:
    ratios = linear(layers, average, unpruned=unpruned, spread=spread)
    return [Keep.part(1 - ratio) for ratio in ratios]


def compress(
    graph: FloatGraph, calibration: Sequence[Tensor], settings: SpattenSettings | None = None
) -> PackedNetwork:
    """Compress a transformer: linear layers in W4A8, attention with a program.

    Parameters
    ----------
    graph : FloatGraph
        A network of mode fp16 with at least one attention node.
    calibration : sequence of Tensor
        Batches of token numbers, at least one.
    settings : SpattenSettings, optional
        Hyper-parameters.

    Returns
    -------
    PackedNetwork
        Equal graph, data and settings give equal bits.

    Raises
    ------
    ValueError
        If there is no attention or no data, a schedule cannot be read, or the network cannot be
        packed; the message names the operation.
    """
    settings = settings or SpattenSettings()
    layers = len(graph.ops("attention"))
    if not layers or mode_of(graph) != "fp16":
        raise ValueError(f"spatten: {graph.name} has no attention, and nothing else is pruned here")
    if not calibration:
        raise ValueError("spatten: calibration data is needed, none was given")
    heads = int(graph.ops("attention")[0].attrs["heads"])
    keeps = schedule(settings, layers, heads)
    notes: list[str] = []
    if settings.finetune_steps:
        graph = finetune(
            graph, calibration, [(keep.tokens, keep.heads, keep.values) for keep in keeps],
            recent=settings.recent, steps=settings.finetune_steps,
            rate=settings.finetune_rate, seed=settings.seed,
            key_bits=settings.msb_bits, value_bits=settings.value_bits,
        )  # fmt: skip
        notes.append(f"{settings.finetune_steps} steps of training with pruned attention")
    base = settings.base()
    if isinstance(base, qqq.QqqSettings):
        packed = qqq.compress(graph, calibration, base)
    else:
        packed = rtn.compress(graph, calibration, base)
    notes += packed.provenance["notes"]
    record = provenance_of("spatten", asdict(settings), calibration, notes)
    return attach(packed, calibration, settings, record)


def attach(
    network: PackedNetwork,
    calibration: Sequence[Tensor],
    settings: SpattenSettings,
    provenance: dict[str, Any] | None = None,
) -> PackedNetwork:
    """Give every attention node of a packed network a program for engine `attention`.

    Parameters
    ----------
    network : PackedNetwork
        Attention on the unit `vector.dot`.
    calibration : sequence of Tensor
        Batches of its input.
    settings : SpattenSettings
        Hyper-parameters; those of the linear layers are not read.
    provenance : dict, optional
        Of the result; the network's own by default.
    """
    nodes = [node for node in network.nodes if node.op == "attention"]
    keeps = schedule(settings, len(nodes), int(nodes[0].attrs["heads"]))
    found = collect(network, calibration)
    steps = {node.name: _scales(found[node.name], settings) for node in nodes}
    # H adds output codes of all heads and layers, so one code means the same in all of them.
    largest = max(float(each["value_scale"].max()) for each in steps.values())
    out_scale = float(
        np.float32(largest * (1 << (settings.value_bits - 1)) * OUTPUT_MARGIN / OUTPUT_LIMIT)
    )
    programs: dict[str, Node] = {}
    for node, keep in zip(nodes, keeps, strict=True):
        programs[node.name] = _program(
            node, found[node.name], steps[node.name], keep, out_scale, settings
        )
    return replace(
        network,
        nodes=tuple(programs.get(node.name, node) for node in network.nodes),
        provenance=network.provenance if provenance is None else provenance,
    )


def _scales(heads: Heads, settings: SpattenSettings) -> dict[str, np.ndarray[Any, Any]]:
    """Return the scales of one node's codes; keys are clipped for the MSBs that most rows see."""
    msb = scales(heads.key, settings.msb_bits, clip=True)
    top, whole = (
        (1 << (bits - 1)) - 1 for bits in (settings.msb_bits, settings.msb_bits + settings.lsb_bits)
    )
    return {
        "query_scale": scales(heads.query, QUERY_BITS, clip=False),
        "key_scale": (msb * np.float32(top / whole)).astype(np.float32),
        "value_scale": scales(heads.value, settings.value_bits, clip=True),
    }


def _program(
    node: Node,
    heads: Heads,
    steps: dict[str, np.ndarray[Any, Any]],
    keep: LayerKeep,
    out_scale: float,
    settings: SpattenSettings,
) -> Node:
    at = node.attrs
    count = int(at["heads"])
    kv_heads = count if at.get("kv_heads") is None else int(at["kv_heads"])
    shared = count // kv_heads
    # Real score per unit of the integer score, in 1/256 of a power of two.
    code = steps["key_scale"].astype(np.float64) / (1 << (4 - settings.lsb_bits))
    unit = steps["query_scale"] * np.repeat(code, shared) * float(at["scale"])
    value = np.repeat(steps["value_scale"].astype(np.float64), shared)
    attrs = {
        "heads": count, "kv_heads": kv_heads, "head_dim": int(at["head_dim"]),
        "causal": bool(at.get("causal", False)), "rope": at.get("rope", "none"),
        "msb_bits": settings.msb_bits, "lsb_bits": settings.lsb_bits,
        "value_bits": settings.value_bits, "lsb_low": NEVER[0], "lsb_high": NEVER[1],
        "token_keep": keep.tokens.ratio, "token_limit": keep.tokens.limit,
        "token_recent": settings.recent, "head_keep": keep.heads,
        "value_keep": keep.values.ratio, "value_limit": keep.values.limit,
        "importance": True, "out_scale": out_scale,
    }  # fmt: skip
    tensors = {name: raw.encode(step) for name, step in steps.items()}
    tensors["softmax"] = raw.encode(_words(unit * math.log2(math.e) * 256))
    tensors["output"] = raw.encode(_words(value / (2**22 * out_scale)))
    tensors |= {name: node.tensors[name] for name in ("cos", "sin") if name in node.tensors}
    made = Node(node.name, node.op, node.inputs, attrs, tensors, "attention")
    if settings.lsb_bits and settings.rule != "never":
        observed = observe_rows(made, program(made), heads)
        low, high = window(settings.rule, observed, settings.threshold, settings.budget)
        attrs |= {"lsb_low": low, "lsb_high": high}
    return made


def _words(factors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return multipliers as bits 0..15 and shifts as bits 16..21."""
    pairs = [multiplier(float(factor)) for factor in factors]
    return np.array([mult | shift << 16 for mult, shift in pairs], dtype=np.uint32)


__all__ = ["SETTINGS", "SpattenSettings", "attach", "compress", "schedule"]

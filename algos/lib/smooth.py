# SPDX-License-Identifier: Apache-2.0
"""Adaptive smoothing: move activation outliers into the weights, judged on the real function.

Source: QQQ (arXiv 2406.09904) section 3; HandH1998/QQQ `smooth/migration/migration_llama.py`. A
channel whose range exceeds a bound t is divided by s >= 1 so that it just fits; the consumers'
columns are multiplied by s. The bound is searched in one dimension; each candidate is judged by the
output of the function downstream (attention, gated MLP, linear layer) with int8 activations and
int4 weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from algos.lib.float_ops import OPS
from algos.lib.graph import FloatGraph, FloatNode, execute
from algos.lib.quantise import grouped

LEAST_BOUND = 0.1
STEP = 0.5
LEAST_CANDIDATES = 100
"""Search of QQQ: n = max(100, max / 0.5) bounds from the largest magnitude down to 0.1."""


@dataclass(frozen=True, slots=True)
class Site:
    """A value that can be smoothed for free.

    Attributes
    ----------
    value : str
        The activation that the consumers read.
    source : FloatNode
        Node whose output channels are divided by s: a normalisation, or the linear layer that the
        value follows channel by channel.
    consumers : tuple of FloatNode
        Linear layers that read the value and nothing else does.
    region : tuple of FloatNode
        The function downstream: the consumers and all that depends on nothing but them, up to the
        next linear layer.
    outputs : tuple of str
        Values of the region that the rest of the network reads.
    """

    value: str
    source: FloatNode
    consumers: tuple[FloatNode, ...]
    region: tuple[FloatNode, ...]
    outputs: tuple[str, ...]


def find_sites(graph: FloatGraph) -> tuple[Site, ...]:
    """Return every site of a graph, in topological order of the value."""
    sites: list[Site] = []
    for node in graph.nodes:
        consumers = graph.consumers(node.name)
        plain = bool(consumers) and all(reader.op == "linear" for reader in consumers)
        source = _source(graph, node) if plain and node.name not in graph.outputs else None
        if source is not None:
            region, outputs = _downstream(graph, consumers)
            sites.append(Site(node.name, source, consumers, region, outputs))
    return tuple(sites)


def _source(graph: FloatGraph, node: FloatNode) -> FloatNode | None:
    """Return the node in which the channels of `node`'s output can be scaled, or None."""
    if node.op in ("layernorm", "rmsnorm"):
        return node
    if node.op == "attention" and node.attrs["heads"] == node.attrs.get("kv_heads"):
        # Under grouped-query attention a value head serves several output heads: QQQ skips it.
        return _own_linear(graph, node.inputs[2], node)
    if node.op == "relu":
        return _own_linear(graph, node.inputs[0], node)
    if node.op == "mul":
        for name in reversed(node.inputs):
            found = _own_linear(graph, name, node)
            if found is not None:
                return found
    return None


def _own_linear(graph: FloatGraph, name: str, reader: FloatNode) -> FloatNode | None:
    producer = graph.producer(name)
    if producer is None or producer.op != "linear" or name in graph.outputs:
        return None
    return producer if graph.consumers(name) == (reader,) else None


def _downstream(
    graph: FloatGraph, consumers: tuple[FloatNode, ...]
) -> tuple[tuple[FloatNode, ...], tuple[str, ...]]:
    inside = {node.name for node in consumers}
    region = list(consumers)
    for node in graph.nodes:
        grows = node.op not in ("linear", "conv2d") and bool(node.inputs)
        if grows and all(name in inside for name in node.inputs):
            inside.add(node.name)
            region.append(node)
    outputs = tuple(
        node.name
        for node in region
        if node.name in graph.outputs
        or any(reader.name not in inside for reader in graph.consumers(node.name))
    )
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    return tuple(sorted(region, key=lambda node: order[node.name])), outputs


def smoothing_factors(
    site: Site, activations: Tensor, group_size: int, mask: Tensor | None = None
) -> Tensor:
    """Search the bound of one site.

    Parameters
    ----------
    site : Site
        From `find_sites`.
    activations : float[B, L, C]
        Values of the site on calibration data.
    group_size : int
        Of the weights' quantisation in the search; 0 is per channel.
    mask : bool[B, L] or None
        Tokens that count.

    Returns
    -------
    float32[C]
        s >= 1; all 1 where no bound is better than none.
    """
    flat = activations.reshape(-1, activations.shape[-1])
    highest, lowest = flat.amax(dim=0), flat.amin(dim=0)
    largest = max(float(highest.max()), -float(lowest.min()))
    exact = _evaluate(site, activations, {})
    best = torch.ones_like(highest)
    least = float("inf")
    count = max(LEAST_CANDIDATES, int(float(flat.max()) / STEP))
    delta = (largest - LEAST_BOUND) / count
    for i in range(count + 1):
        bound = largest - i * delta
        if bound < LEAST_BOUND:
            break
        factors = torch.maximum(highest, -lowest).div(bound).clamp_min(1.0)
        weights = {
            node.name: _fake_int4(node.tensors["weight"] * factors, group_size)
            for node in site.consumers
        }
        outputs = _evaluate(site, _fake_int8(activations / factors), weights)
        loss = _distance(outputs, exact, mask)
        if loss < least:
            best, least = factors, loss
    return best


def _evaluate(site: Site, value: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    values = {site.value: value}
    for node in site.region:
        run = node.with_tensors(weight=weights[node.name]) if node.name in weights else node
        values[node.name] = OPS[node.op](run, tuple(values[name] for name in node.inputs), None)
    return [values[name] for name in site.outputs]


def _distance(outputs: Sequence[Tensor], exact: Sequence[Tensor], mask: Tensor | None) -> float:
    total = 0.0
    for got, wanted in zip(outputs, exact, strict=True):
        error = (got - wanted).square().sum(dim=-1)
        total += float((error if mask is None else error[mask]).mean())
    return total


def _fake_int8(values: Tensor) -> Tensor:
    scale = values.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
    return torch.round(values / scale) * scale


def _fake_int4(weight: Tensor, group_size: int) -> Tensor:
    """Round to -7..7 with step max / 7 per row or group, as the observer of QQQ's search does."""
    blocks = grouped(weight, min(group_size, weight.shape[1]))
    step = blocks.abs().amax(dim=2, keepdim=True).clamp_min(1e-12) / 7
    return (torch.round(blocks / step) * step).flatten(1)[:, : weight.shape[1]]


def apply_factors(graph: FloatGraph, site: Site, factors: Tensor) -> FloatGraph:
    """Divide the site's value by `factors` in its source and multiply its consumers' columns."""
    source = graph.node(site.source.name)
    if source.op == "linear":
        changed = source.with_tensors(weight=source.tensors["weight"] / factors[:, None])
        bias = source.tensors.get("bias")
        if bias is not None:
            changed = changed.with_tensors(bias=bias / factors)
    else:
        changed = source.with_tensors(gamma=source.tensors["gamma"] / factors)
        beta = source.tensors.get("beta")
        if beta is not None:
            changed = changed.with_tensors(beta=beta / factors)
    graph = graph.replaced(changed)
    return graph.replaced(
        *(
            (node := graph.node(reader.name)).with_tensors(weight=node.tensors["weight"] * factors)
            for reader in site.consumers
        )
    )


def smooth(graph: FloatGraph, batch: Tensor, group_size: int) -> FloatGraph:
    """Smooth every site of a graph, each with the search on one calibration batch.

    Parameters
    ----------
    graph : FloatGraph
        A transformer; a graph without sites comes back unchanged.
    batch : Tensor
        The first calibration batch, as in QQQ's repository.
    group_size : int
        Of the weights' quantisation in the search.

    Returns
    -------
    FloatGraph
        Same function up to rounding.
    """
    wanted = {site.value for site in find_sites(graph)}
    values: dict[str, Tensor] = {}

    def observe(node: FloatNode, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if node.name in wanted:
            values[node.name] = output

    execute(graph, batch, observe)
    for value in values:
        # The site is found again: an earlier one may have changed its consumers' weights.
        site = next(s for s in find_sites(graph) if s.value == value)
        factors = smoothing_factors(site, values[value].float(), group_size)
        if bool((factors > 1).any()):
            graph = apply_factors(graph, site, factors)
    return graph

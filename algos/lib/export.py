# SPDX-License-Identifier: Apache-2.0
"""From an ``nn.Module`` to a float graph, through `torch.export`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, fx, nn

from algos.lib.attention_pattern import find_attention
from algos.lib.builder import Builder
from algos.lib.capture import Capture, ExportError, op_name
from algos.lib.graph import FloatGraph, execute
from algos.lib.handlers import HANDLERS, HINTS
from algos.lib.patterns import Match, Rows, find_patterns

__all__ = ["ExportError", "export"]


def export(
    module: nn.Module, example_inputs: tuple[Tensor, ...], name: str = "network"
) -> FloatGraph:
    """Turn a module into a float graph and check that the two agree.

    Parameters
    ----------
    module : nn.Module
        Taken in eval mode and float32; it is not changed.
    example_inputs : tuple of Tensor
        Batch first: images (B, C, H, W), features (B, D), or integer token numbers (B, L). L is the
        longest sequence that the network will run: tables of positions end there. Batch and length
        stay free.
    name : str
        Name of the network.

    Returns
    -------
    FloatGraph
        Equal to the module within float tolerance, on the example and on another batch and length.

    Raises
    ------
    ExportError
        If an operator has no equal among the operations of a network; the message names it, the
        module that calls it and the source line.
    TypeError
        If an argument is of the wrong kind.
    """
    _check_arguments(module, example_inputs)
    trace = Capture(module, example_inputs)
    matches = find_patterns(trace) | find_attention(trace)
    builder = Builder(trace, name)
    needed = _needed(trace, matches)
    for node in trace.graph.nodes:
        if node not in needed or node in trace.inputs:
            continue
        match = matches.get(node)
        if match is not None:
            _emit_match(builder, match)
        else:
            _emit(builder, node)
    graph = builder.graph(trace.outputs)
    _check(trace, graph)
    return graph


def _check_arguments(module: object, example_inputs: object) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"export: module must be an nn.Module, not {module!r}")
    if not isinstance(example_inputs, tuple) or not example_inputs:
        raise TypeError(
            f"export: example_inputs must be a tuple of tensors, not {example_inputs!r}"
        )
    for x in cast("tuple[object, ...]", example_inputs):
        if not isinstance(x, Tensor):
            raise TypeError(f"export: an example input must be a tensor, not {x!r}")
        if x.ndim < 2 or 0 in x.shape:
            raise ValueError(
                "export: an example input must have a batch and at least one more axis, "
                f"not shape {tuple(x.shape)!r}"
            )


def _dependencies(trace: Capture, match: Match | None, node: fx.Node) -> list[fx.Node]:
    if match is None:
        return trace.data_args(node)
    # Of a fused projection only the rows that are wanted are built, from its input.
    return [trace.data_args(i.source)[0] if isinstance(i, Rows) else i for i in match.inputs]


def _needed(trace: Capture, matches: dict[fx.Node, Match]) -> set[fx.Node]:
    """Return the nodes that the outputs depend on; a pattern swallows what it contains."""
    for output in trace.outputs:
        if not trace.is_data(output):
            raise ExportError(f"the output {output.name} does not depend on the network's inputs")
    needed: set[fx.Node] = set()
    stack = list(trace.outputs)
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(_dependencies(trace, matches.get(node), node))
    return needed


def _emit(builder: Builder, node: fx.Node) -> None:
    name = op_name(node)
    handler = HANDLERS.get(name.removesuffix("_"))
    if handler is None:
        why = "this operator is not supported"
        raise builder.trace.refuse(node, why, *((HINTS[name],) if name in HINTS else ()))
    handler(builder, node)


def _emit_match(builder: Builder, match: Match) -> None:
    inputs = tuple(
        builder.linear_rows(i.source, i.rows, i.suffix) if isinstance(i, Rows) else builder.name(i)
        for i in match.inputs
    )
    builder.add(match.output, match.op, inputs, match.attrs, match.tensors)


def _check(trace: Capture, graph: FloatGraph) -> None:
    """Compare graph and module on the example, and on another batch and a shorter sequence."""
    variable = [trace.is_variable(node, 0) for node in trace.inputs]
    if not all(variable):
        raise ExportError(
            f"the module works for a batch of {trace.example_inputs[0].shape[0]} only; "
            "take the batch from x.shape[0] or write -1"
        )
    other: list[Tensor] = []
    for node, x in zip(trace.inputs, trace.example_inputs, strict=True):
        y = torch.cat((x, x[:1].flip(-1)))
        if x.ndim > 1 and trace.is_variable(node, 1):
            y = y[:, : max(2, x.shape[1] // 2 + 1)]
        other.append(y)
    for inputs in (trace.example_inputs, tuple(other)):
        if not _agree(trace.module, graph, inputs):
            sizes = ", ".join(str(tuple(x.shape)) for x in inputs)
            raise ExportError(
                f"the exported graph differs from the module on inputs of {sizes}; "
                "a size or a position is likely fixed in forward"
            )


def _agree(module: nn.Module, graph: FloatGraph, inputs: tuple[Tensor, ...]) -> bool:
    try:
        with torch.no_grad():
            expected = _tensors(module(*inputs))
        actual = execute(graph, inputs)
    except (RuntimeError, ValueError, IndexError):
        return False  # one of them cannot run at these sizes
    return all(
        want.shape == have.shape and torch.allclose(want, have, rtol=1e-3, atol=1e-4 * _peak(want))
        for want, have in zip(expected, actual, strict=True)
    )


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(cast("Mapping[object, object]", value).values())
    if isinstance(value, list | tuple):
        return [x for part in cast("list[object]", value) for x in _tensors(part)]
    return []


def _peak(x: Tensor) -> float:
    return max(1.0, float(x.abs().max()))

# SPDX-License-Identifier: Apache-2.0
"""A layer of a packed network as jobs of its engine, on random input to the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosil.errors import CosilError
from cosil.packed.network import Node, PackedNetwork

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class LayerJobs:
    """A layer on an engine.

    Attributes
    ----------
    spec : spec of the engine
        Suits the layer.
    jobs : sequence of (job, operands)
        In their order.
    value : ndarray
        What the engine's reference makes of them, as the layer's output.
    """

    spec: Any
    jobs: Sequence[tuple[Any, Any]]
    value: Array

    def first_rows(self, rows: int) -> LayerJobs:
        """Return the jobs with at most so many rows of the layer's matrix product."""
        return replace(self, jobs=[_first_rows(*job, rows) for job in self.jobs])


def layer_jobs(network: PackedNetwork, node: Node, spec: Any | None, seed: int) -> LayerJobs:
    """Lower a node whose engine is one of `LAYERED`.

    Parameters
    ----------
    network : PackedNetwork
        Runs on the reference, with random input, up to the node.
    node : Node
        One of its nodes.
    spec : spec of the engine or None
        None: a small engine that suits the node.
    seed : int
        Of the input.

    Raises
    ------
    CosilError
        If the spec does not suit the node, or the jobs do not give what the reference of the whole
        network has for it.
    """
    from algos.reference.network import Reference
    from cosil.machine.inputs import random_inputs

    values: dict[str, Array] = {}

    def observe(name: str, value: Any) -> None:
        if name in (node.name, node.inputs[0]):
            values[name] = value.numpy()

    Reference(network).run(random_inputs(network, seed=seed), observe=observe)
    lowered = LAYERED[str(node.engine)](node, values[node.inputs[0]], spec)
    # What the hardware is held to, job by job, is what the network's reference has for the layer.
    want = values[node.name]
    if not np.array_equal(lowered.value, want, equal_nan=want.dtype.kind == "f"):
        raise CosilError(
            f"layer {node.name!r}: its jobs do not give what the network's reference gives",
            "this is a defect of cosil; please report it with the network",
        )
    return lowered


def _w4a8(node: Node, x: Array, spec: Any | None) -> LayerJobs:
    """Lower to the array; one that is given has to suit the layer, ours takes its formats."""
    from algos.reference.w4a8 import reference
    from cosil.engines.w4a8 import W4A8Spec
    from cosil.lowering.gemm import layer_jobs, layer_output
    from cosil.machine.spec import VARIANT, Machine
    from sim.vector import add_bias, quantize_rows

    fixed = frozenset(VARIANT if spec else ())
    array = Machine("verify", 1e8, spec or W4A8Spec(8, 8), fixed=fixed).spec_for(node)
    codes, scales = quantize_rows(x, node.name) if node.attrs["mode"] == "fp16" else (x, None)
    jobs = layer_jobs(array, node, codes, scales)
    results = [reference(array, *job).numpy() for job in jobs]
    value = layer_output(node, x.shape, [job for job, _ in jobs], results)
    if "bias" in node.tensors:
        value = add_bias(value, node.tensors["bias"].words)
    return LayerJobs(array, jobs, value)


def _pim(node: Node, x: Array, spec: Any | None) -> LayerJobs:
    """Lower to the macro; ours is a small one if the layer's columns are alike."""
    from algos.reference.pim import reference
    from cosil.lowering.pim import layer_jobs, layer_output, layer_spec, unsuited

    macro: Any = spec or layer_spec(node)
    if spec is None:
        small = replace(macro, columns=4 * macro.planes, mux=macro.planes, epilogue_lanes=2)
        macro = macro if unsuited(small, node) else small
    elif reasons := unsuited(macro, node):
        raise CosilError(
            f"layer {node.name!r} needs a macro with {', '.join(reasons)}",
            "change the spec, or leave it away",
        )
    jobs = layer_jobs(macro, node, x)
    results = [reference(macro, *job).y.numpy() for job in jobs]
    return LayerJobs(macro, jobs, layer_output(node, x.shape, [job for job, _ in jobs], results))


def _xnor(node: Node, x: Array, spec: Any | None) -> LayerJobs:
    """Lower to the array; ours is small, and just holds the layer."""
    from algos.reference.xnor import reference
    from cosil.lowering.xnor import layer_jobs, layer_output, layer_spec, unsuited

    array: Any = spec
    if spec is None:
        least = layer_spec(node, x.shape)
        array = replace(least, pe=min(4, least.pe), simd=min(16, least.simd))
    elif reasons := unsuited(array, node, x.shape):
        raise CosilError(
            f"layer {node.name!r} needs an array with {', '.join(reasons)}",
            "change the spec, or leave it away",
        )
    jobs = layer_jobs(array, node, x)
    results = [reference(array, *job).numpy() for job in jobs]
    return LayerJobs(array, jobs, layer_output(node, x.shape, [job for job, _ in jobs], results))


def _first_rows(job: Any, operands: Any, rows: int) -> tuple[Any, Any]:
    """Return a job with so many rows, or the rows of one pool window."""
    pool = getattr(job, "pool", 1)
    m = min(job.m, max(rows - rows % pool, pool))
    per_row = {name: getattr(operands, name)[:m] for name in ("x", "border")
               if hasattr(operands, name)}  # fmt: skip
    return replace(job, m=m), replace(operands, **per_row)


LAYERED: Mapping[str, Callable[[Node, Array, Any | None], LayerJobs]] = MappingProxyType(
    {"w4a8": _w4a8, "pim": _pim, "xnor": _xnor}
)
"""Engines whose bench can take its jobs from a layer of a network."""

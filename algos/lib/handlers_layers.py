# SPDX-License-Identifier: Apache-2.0
"""Handlers of recorded operators that compute: layers, norms, pooling."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from algos.lib.builder import Builder, Handler, argument, linear_parts, pair, scale_rows
from algos.lib.capture import op_name


def _linear(b: Builder, node: fx.Node) -> None:
    x, weight, bias = linear_parts(b.trace, node)
    tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
    b.add(node, "linear", (b.name(x),), {}, tensors)


def _conv2d(b: Builder, node: fx.Node) -> None:
    weight, bias = b.trace.value(node.args[1]), b.trace.value(argument(node, 2, "bias"))
    stride, dilation = pair(argument(node, 3, "stride", 1)), pair(argument(node, 5, "dilation", 1))
    padding = argument(node, 4, "padding", 0)
    if padding == "same":
        spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(span % 2 for span in spans):
            raise b.trace.refuse(node, "'same' padding is not symmetric", "use an odd kernel")
        padding = [span // 2 for span in spans]
    attrs = {
        "stride": stride, "padding": pair(0 if padding == "valid" else padding),
        "dilation": dilation, "groups": int(argument(node, 6, "groups", 1)),
    }  # fmt: skip
    tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
    b.add(node, "conv2d", (b.name(node.args[0]),), attrs, tensors)


def _batch_norm(b: Builder, node: fx.Node) -> None:
    x = node.args[0]
    assert isinstance(x, fx.Node)
    gamma, beta, mean, var = (b.trace.value(a) for a in node.args[1:5])
    if mean is None or var is None:
        raise b.trace.refuse(node, "it has no running statistics", "set track_running_stats=True")
    # In float64, so that folding costs no more than the one rounding to float32.
    gain = torch.rsqrt(var.double() + float(argument(node, 7, "eps")))
    if gamma is not None:
        gain = gain * gamma.double()
    offset = -mean.double() * gain
    if beta is not None:
        offset = offset + beta.double()
    layer = b.only_reader(x, node)
    if layer is not None and layer.op in ("linear", "conv2d"):
        if layer.op == "linear" and len(b.trace.shape(x)) != 2:
            raise b.trace.refuse(node, "it normalises the axis of the sequence")
        doubles = {key: tensor.double() for key, tensor in layer.tensors.items()}
        folded = scale_rows(replace(layer, tensors=doubles), gain, offset)
        floats = {key: tensor.float() for key, tensor in folded.tensors.items()}
        b.rewrite(replace(layer, tensors=floats))
        b.alias(node, x)
    elif len(b.trace.shape(x)) == 4:
        # Before a convolution it cannot be folded (zero padding comes after it): 1 x 1, one group
        # per channel.
        attrs = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": len(gain)}
        tensors = {"weight": gain.reshape(-1, 1, 1, 1), "bias": offset}
        b.add(node, "conv2d", (b.name(x),), attrs, tensors)
    else:
        raise b.trace.refuse(node, "it does not follow a linear or conv2d layer of its own")


def _norm(op: str) -> Handler:
    def handle(b: Builder, node: fx.Node) -> None:
        trace = b.trace
        sizes = [int(trace.value(s)) for s in trace.value(node.args[1])]
        if len(sizes) != 1:
            raise trace.refuse(node, f"it normalises {len(sizes)} axes", "only the last one is")
        gamma = trace.value(argument(node, 2, "weight"))
        tensors = {"gamma": torch.ones(sizes) if gamma is None else gamma}
        if op == "layernorm":
            beta = trace.value(argument(node, 3, "bias"))
            tensors["beta"] = torch.zeros(sizes) if beta is None else beta
            eps = argument(node, 4, "eps", 1e-5)
        else:
            eps = argument(node, 3, "eps")
        eps = torch.finfo(torch.float32).eps if eps is None else float(eps)
        b.add(node, op, (b.name(node.args[0]),), {"eps": eps}, tensors)

    return handle


# -- pooling ---------------------------------------------------------------------------------


def _pool(b: Builder, node: fx.Node) -> None:
    maximum = op_name(node) == "aten.max_pool2d"
    kernel = pair(node.args[1])
    stride = pair(argument(node, 2, "stride") or kernel)
    padding = pair(argument(node, 3, "padding", 0))
    ceil = argument(node, 5 if maximum else 4, "ceil_mode", False)
    if ceil or (maximum and pair(argument(node, 4, "dilation", 1)) != [1, 1]):
        raise b.trace.refuse(node, "ceil_mode and dilation are not supported")
    if not maximum and argument(node, 6, "divisor_override") is not None:
        raise b.trace.refuse(node, "divisor_override is not supported")
    if not maximum and padding != [0, 0] and not argument(node, 5, "count_include_pad", True):
        raise b.trace.refuse(node, "its padding is not counted", "set count_include_pad=True")
    attrs = {"kernel": kernel, "stride": stride, "padding": padding}
    b.add(node, "maxpool" if maximum else "avgpool", (b.name(node.args[0]),), attrs)


def _adaptive_pool(b: Builder, node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    size = b.trace.shape(source)[-2:]
    out = pair(node.args[1])
    if any(s % o for s, o in zip(size, out, strict=True)):
        raise b.trace.refuse(node, f"{size} does not divide by {tuple(out)}", "its windows differ")
    kernel = [s // o for s, o in zip(size, out, strict=True)]
    attrs = {"kernel": kernel, "stride": kernel, "padding": [0, 0]}
    b.add(node, "avgpool", (b.name(source),), attrs)


def _mean(b: Builder, node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    shape = b.trace.shape(source)
    dims: list[int] = argument(node, 1, "dim") or []
    axes = sorted(d % len(shape) for d in dims)
    if len(shape) != 4 or axes != [2, 3]:
        raise b.trace.refuse(node, f"it averages axes {axes}", "only (2, 3) of (B, C, H, W) are")
    attrs = {"kernel": list(shape[2:]), "stride": list(shape[2:]), "padding": [0, 0]}
    keep = bool(argument(node, 2, "keepdim", False))
    name = b.add(node, "avgpool", (b.name(source),), attrs, final=keep)
    if not keep:
        b.add(node, "flatten", (name,), {"start_dim": 1})


def _embedding(b: Builder, node: fx.Node) -> None:
    table, ids = node.args[:2]
    if b.trace.is_data(table) or ids not in b.trace.inputs:
        raise b.trace.refuse(node, "it is read by something else than an input of the network")
    b.add(node, "embedding", (b.name(ids),), {"positions": False}, {"table": b.trace.value(table)})


LAYERS: dict[str, Handler] = {
    **{f"aten.{name}": _linear for name in ("linear", "addmm", "mm", "matmul")},
    "aten.conv2d": _conv2d,
    "aten.batch_norm": _batch_norm,
    "aten.layer_norm": _norm("layernorm"),
    "aten.rms_norm": _norm("rmsnorm"),
    "aten.avg_pool2d": _pool,
    "aten.max_pool2d": _pool,
    "aten.adaptive_avg_pool2d": _adaptive_pool,
    "aten.mean": _mean,
    "aten.embedding": _embedding,
}

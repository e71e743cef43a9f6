# SPDX-License-Identifier: Apache-2.0
"""Handlers of recorded operators that move values without arithmetic."""

from __future__ import annotations

from torch import fx

from algos.lib.builder import Builder, Handler, argument
from algos.lib.capture import op_name, size_hint
from algos.lib.patterns import CASTS

# -- movement --------------------------------------------------------------------------------


def _reshape(b: Builder, node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    trace, before, after = b.trace, b.trace.shape(source), b.trace.shape(node)
    if before == after:
        b.alias(node, source)
        return
    free = [d for d in range(len(after)) if trace.is_variable(node, d)]
    if after[0] != before[0]:
        raise trace.refuse(node, "it mixes samples of a batch", "keep the batch as first axis")
    if len(after) < len(before) and after[:-1] == before[: len(after) - 1]:
        b.add(node, "flatten", (b.name(source),), {"start_dim": len(after) - 1})
    elif free == [0]:
        b.add(node, "reshape", (b.name(source),), {"shape": [-1, *after[1:]]})
    else:
        raise trace.refuse(node, "it reshapes a sequence of variable length outside attention")


def _permute(b: Builder, node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    rank = len(b.trace.shape(source))
    if op_name(node) == "aten.permute":
        perm = [int(d) % rank for d in argument(node, 1, "dims")]
    else:
        perm = list(range(rank))
        i, j = (int(b.trace.value(d)) % rank for d in node.args[1:3])
        perm[i], perm[j] = perm[j], perm[i]
    if perm == list(range(rank)):
        b.alias(node, source)
        return
    if perm[0] != 0:
        raise b.trace.refuse(node, "it moves the batch", "keep the batch as first axis")
    b.add(node, "transpose", (b.name(source),), {"perm": perm})


def _slice(b: Builder, node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    shape = b.trace.shape(source)
    dim = int(argument(node, 1, "dim", 0)) % len(shape)
    start, stop = b.trace.value(argument(node, 2, "start")), b.trace.value(argument(node, 3, "end"))
    start = 0 if start is None else int(start)
    # To the end of a variable axis must stay so when the sequence is shorter than the example's.
    end = _END if b.trace.is_variable(source, dim) else shape[dim]
    stop = end if stop is None or int(stop) >= shape[dim] else int(stop)
    step = int(argument(node, 4, "step", 1))
    if start == 0 and stop == end and step == 1:
        b.alias(node, source)
        return
    _add_slice(b, node, source, dim, start, stop, step)


_END = 2**31 - 1


def _add_slice(
    b: Builder, node: fx.Node, source: fx.Node, dim: int, start: int, stop: int, step: int,
    final: bool = True,
) -> str:  # fmt: skip
    if dim == 0:
        raise b.trace.refuse(node, "it takes samples out of a batch", "keep the batch whole")
    attrs = {"dim": dim, "start": start, "stop": stop, "step": step}
    return b.add(node, "slice", (b.name(source),), attrs, final=final)


def _select(b: Builder, node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    shape, after = b.trace.shape(source), b.trace.shape(node)
    dim, index = int(node.args[1]) % len(shape), int(b.trace.value(node.args[2]))  # type: ignore[call-overload]
    stop = _END if index == -1 else index + 1
    name = _add_slice(b, node, source, dim, index, stop, 1, final=False)
    if any(b.trace.is_variable(node, d) for d in range(1, len(after))):
        raise b.trace.refuse(node, "it reshapes a sequence of variable length outside attention")
    b.add(node, "reshape", (name,), {"shape": [-1, *after[1:]]})


def _getitem(b: Builder, node: fx.Node) -> None:
    parts, index = node.args[:2]
    assert isinstance(parts, fx.Node)
    assert isinstance(index, int)
    name = op_name(parts)
    if name not in ("aten.chunk", "aten.split", "aten.split_with_sizes"):
        raise b.trace.refuse(parts, "this operator is not supported")
    source = parts.args[0]
    assert isinstance(source, fx.Node)
    dim = int(argument(parts, 2, "dim", 0)) % len(b.trace.shape(source))
    sizes = [int(size_hint(part.shape[dim])) for part in parts.meta["val"]]
    start = sum(sizes[:index])
    _add_slice(b, node, source, dim, start, start + sizes[index], 1)


def _nothing(b: Builder, node: fx.Node) -> None:
    """Parts of a split are taken one by one."""


def _pad(b: Builder, node: fx.Node) -> None:
    source, pad = node.args[0], [int(b.trace.value(p)) for p in b.trace.value(node.args[1])]
    assert isinstance(source, fx.Node)
    rank = len(b.trace.shape(source))
    mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value")
    if op_name(node) == "aten.constant_pad_nd":
        mode, value = "constant", argument(node, 2, "value")
    pad = pad + [0] * (2 * rank - len(pad))
    spatial, channels, batch = pad[: 2 * rank - 4], pad[2 * rank - 4 : 2 * rank - 2], pad[-2:]
    if mode != "constant" or value not in (None, 0, 0.0) or any(spatial) or any(batch):
        raise b.trace.refuse(node, "only zero channels are padded", "give the convolution padding")
    if min(channels) < 0:
        raise b.trace.refuse(node, "it removes channels", "use a slice")
    attrs = {"before": channels[0], "after": channels[1]}
    b.add(node, "pad_channels", (b.name(source),), attrs)


def _concat(b: Builder, node: fx.Node) -> None:
    parts = node.args[0]
    assert isinstance(parts, list | tuple)
    if not all(map(b.trace.is_data, parts)):
        raise b.trace.refuse(node, "one of its parts is a constant")
    dim = int(argument(node, 1, "dim", 0)) % len(b.trace.shape(node))
    if dim == 0:
        raise b.trace.refuse(node, "it joins batches", "keep the batch as first axis")
    b.add(node, "concat", [b.name(part) for part in parts], {"dim": dim})


def _identity(b: Builder, node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    if not node.meta["val"].is_floating_point():
        raise b.trace.refuse(node, "it converts to integers")
    if b.trace.shape(node) != b.trace.shape(source):
        raise b.trace.refuse(node, "it repeats a value")
    b.alias(node, source)


_RESHAPES = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")
MOVEMENT: dict[str, Handler] = {
    **{f"aten.{name}": _reshape for name in _RESHAPES},
    **{f"aten.{name}": _permute for name in ("permute", "transpose", "swapaxes")},
    **{f"aten.{name}": _nothing for name in ("chunk", "split", "split_with_sizes")},
    **dict.fromkeys(CASTS | {"aten.expand"}, _identity),
    "aten.slice": _slice,
    "aten.select": _select,
    "aten.pad": _pad,
    "aten.constant_pad_nd": _pad,
    "aten.cat": _concat,
    "getitem": _getitem,
}

# SPDX-License-Identifier: Apache-2.0
"""The table of operations: shapes that follow, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.fuzz_networks import cnn, pim, transformer, xnor
from cosil.packed import binary, bitplane, graph, raw
from cosil.packed.decomposition import DECOMPOSITIONS
from cosil.packed.errors import PackedFormatError
from cosil.packed.network import Node, PackedNetwork, Value
from cosil.packed.ops import OPS


def test_the_two_networks_use_every_operation() -> None:
    """No operation is left untested by round trip and fuzz."""
    assert set(OPS) == {node.op for network in (cnn(), transformer()) for node in network.nodes}


def test_shapes_of_a_cnn() -> None:
    """Convolution, pooling, slicing and movement give the shapes that torch's formulas give."""
    values = graph.check(cnn())
    expected = {
        "stem": ("i8", (16, 8, 8)),
        "block.conv1": ("i8", (32, 4, 4)),
        "block.conv2": ("i16", (32, 4, 4)),
        "block.rows": ("i8", (16, 4, 8)),
        "block.columns": ("i8", (16, 4, 4)),
        "block.pad": ("i8", (32, 4, 4)),
        "average": ("i8", (32, 2, 2)),
        "joined": ("i8", (64, 2, 2)),
        "turned": ("i8", (2, 2, 64)),
        "rows": ("i8", (4, 64)),
        "flat": ("i8", (256,)),
        "head": ("i16", (10,)),
    }
    assert expected == {name: tuple(values[name]) for name in expected}


def test_shapes_of_a_transformer() -> None:
    """A variable length stays variable through the block."""
    values = graph.check(transformer())
    assert ("f16", (0, 8)) == values["k"]
    assert ("f16", (0, 16)) == values["attention"]
    assert ("f16", (0, 40)) == values["logits"]


def _one(op: str, attrs: dict[str, Any], dtype: str, *shapes: tuple[int, ...]) -> PackedNetwork:
    """Return a network of one node that reads inputs of these shapes."""
    inputs = tuple(Value(f"x{i}", dtype, shape) for i, shape in enumerate(shapes))
    node = Node("y", op, tuple(value.name for value in inputs), attrs)
    return PackedNetwork("one", inputs, (node,), ("y",))


POOL = {"kernel": [3, 3], "stride": [2, 2], "padding": [1, 1]}


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (_one("maxpool", POOL, "i8", (4, 7, 9)), (4, 4, 5)),
        (_one("maxpool", {"kernel": [2, 3]}, "i8", (4, 7, 9)), (4, 6, 7)),
        (_one("slice", {"dim": 1, "start": -3, "stop": 99}, "i8", (5, 2)), (3, 2)),
        (_one("transpose", {"perm": [0, 3, 1, 2]}, "i8", (2, 3, 4)), (4, 2, 3)),
        (_one("concat", {"dim": 2}, "i8", (2, 3), (2, 5), (2, 1)), (2, 9)),
        (_one("reshape", {"shape": [-1, 6]}, "i8", (2, 3)), (6,)),
        (_one("flatten", {"start_dim": 2}, "i8", (2, 3, 4)), (2, 12)),
        (_one("pad_channels", {"before": 1, "after": 2}, "i8", (2, 3)), (5, 3)),
    ],
    ids=str,
)
def test_movement_shapes(network: PackedNetwork, shape: tuple[int, ...]) -> None:
    """Shapes follow from attributes; slices have Python's meaning."""
    assert shape == graph.check(network)["y"].shape


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            _one("maxpool", {"kernel": [9, 9]}, "i8", (4, 7, 9)),
            "node 'y': a window of 9 must fit the padded image (4, 7, 9), padding (0, 0)",
        ),
        (
            _one("maxpool", {**POOL, "padding": [2, 0]}, "i8", (4, 7, 9)),
            "node 'y': padding must be at most half the kernel [3, 3], not [2, 0]",
        ),
        (
            _one("maxpool", {"kernel": [3, 0]}, "i8", (4, 7, 9)),
            "node 'y': attribute kernel must be a list of 2 ints in 1..65535, not [3, 0]",
        ),
        (
            _one("slice", {"dim": 1, "start": 3, "stop": 3}, "i8", (5,)),
            "node 'y': slice 3:3 must not be empty on an axis of 5",
        ),
        (
            _one("slice", {"dim": 2, "start": 0, "stop": 3}, "i8", (5,)),
            "node 'y': dim must be in 1..1, not 2",
        ),
        (
            _one("transpose", {"perm": [1, 0]}, "i8", (5,)),
            "node 'y': perm must be 0 and a permutation of the axes 1..1, not [1, 0]",
        ),
        (
            _one("reshape", {"shape": [-1, 4]}, "i8", (5,)),
            "node 'y': shape (-1, 4) must hold the 5 elements of (5,)",
        ),
        (
            _one("reshape", {"shape": [5]}, "i8", (5,)),
            "node 'y': shape must be -1 for the batch, then sizes of at least 1, not (5,)",
        ),
        (
            _one("concat", {"dim": 1}, "i8", (2, 3), (2, 4)),
            "node 'y': concat must read shapes equal but in axis 1, not (2, 3) and (2, 4)",
        ),
        (
            _one("concat", {"dim": 1}, "i8", (2,)),
            "node 'y': concat must read (f32|i8|i16|f16, ...), not (i8)",
        ),
        (
            _one("add", {}, "i8", (2,), (2,)),
            "node 'y': attribute mul_a is missing; it must be an int in 0..65535",
        ),
        (
            _one("pad_channels", {"before": 65536, "after": 0}, "i8", (2, 2**15, 2**15)),
            "node 'y': output shape (65538, 32768, 32768) has more than 2^40 elements",
        ),
        (
            _one("relu", {}, "bf16", (2,)),
            "input 'x0': dtype must be one of f32, ids, i8, not 'bf16'",
        ),
    ],
    ids=str,
)
def test_refusals(network: PackedNetwork, message: str) -> None:
    """What cannot run is refused with the node and the numbers that disagree."""
    with pytest.raises(PackedFormatError, match=f"^{re.escape(message)}$"):
        graph.check(network)


def _replaced(network: PackedNetwork, which: str, **fields: Any) -> PackedNetwork:
    nodes = (replace(node, **fields) if node.name == which else node for node in network.nodes)
    return replace(network, nodes=tuple(nodes))


def _tensors(network: PackedNetwork, name: str, **tensors: Any) -> PackedNetwork:
    node = next(node for node in network.nodes if node.name == name)
    kept = {key: value for key, value in {**node.tensors, **tensors}.items() if value is not None}
    return _replaced(network, name, tensors=kept)


HIGH = np.full(16, 1, np.uint64) << np.uint64(54)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            _tensors(cnn(), "stem", epilogue=raw.encode(HIGH)),
            "tensor stem:epilogue: bits 54..63 of each word must be 0",
        ),
        (
            _tensors(cnn(), "stem", epilogue=raw.encode(HIGH[:15] * 0)),
            "tensor stem:epilogue: shape must be (16,), not (15,)",
        ),
        (
            _tensors(cnn(), "stem", epilogue=None),
            "node 'stem': conv2d must have a tensor 'epilogue'",
        ),
        (
            _tensors(cnn(), "stem", bias=raw.encode(HIGH)),
            "node 'stem': unknown tensor 'bias'; conv2d has weight, epilogue",
        ),
        (
            _tensors(transformer(), "q", weight=cnn().nodes[1].tensors["weight"]),
            "tensor q:weight: must have 'channel' scales",
        ),
        (
            _tensors(transformer(), "attention", cos=None),
            "node 'attention': rope 'half' needs cos, sin and an even head_dim, not 4",
        ),
        (
            _tensors(transformer(), "silu", table=raw.encode(np.zeros(256, np.int16))),
            "tensor silu:table: shape must be (257,), not (256,)",
        ),
        (
            _tensors(transformer(), "silu", table=raw.encode(np.zeros(257, np.uint16))),
            "tensor silu:table: dtype must be int16, not uint16",
        ),
        (
            _replaced(cnn(), "stem", name="quantize"),
            "node 'quantize': the name must not occur twice",
        ),
        (replace(cnn(), inputs=()), "network: must have at least one input"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensor_refusals(network: PackedNetwork, message: str) -> None:
    """Each tensor of a node is held against the table: codec, dtype, shape, reserved bits."""
    with pytest.raises(PackedFormatError, match=f"^{re.escape(message)}$"):
        graph.check(network)


def _program(tensors: dict[str, Any] | None = None, **attrs: Any) -> PackedNetwork:
    """Return a transformer whose attention node, on engine `attention`, has these changes."""
    network = transformer(2, dim=32, engine="attention")
    nodes = tuple(
        replace(
            node,
            attrs={**node.attrs, **attrs},
            tensors={**node.tensors, **{k: raw.encode(v) for k, v in (tensors or {}).items()}},
        )
        if node.op == "attention"
        else node
        for node in network.nodes
    )
    return replace(network, nodes=nodes)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            _program(msb_bits=5),
            "node 'attention': attribute msb_bits must be one of 4, 6, 8, not 5",
        ),
        (
            _program(lsb_bits=0),
            "node 'attention': lsb_low must exceed lsb_high (never fetch) where lsb_bits is 0",
        ),
        (
            _program(head_dim=24),
            "node 'attention': head_dim must be 8, 16, 32, 64 or 128, not 24",
        ),
        (
            _program(token_keep=0),
            "node 'attention': attribute token_keep must be an int in 1..1000000, not 0",
        ),
        (
            _program({"softmax": np.full(4, 48 << 16, np.uint32)}),
            "tensor attention:softmax: bits 16..21, a shift, must be at most 47",
        ),
        (
            _program({"output": np.full(4, 1 << 22, np.uint32)}),
            "tensor attention:output: bits 22..31 of each word must be 0",
        ),
        (
            _program({"key_scale": np.zeros(2, np.float32)}),
            "tensor attention:key_scale: must be at least 2^-126, not 0.0",
        ),
        (
            _program({"value_scale": np.ones(4, np.float32)}),
            "tensor attention:value_scale: shape must be (2,), not (4,)",
        ),
    ],
)
def test_attention_programs_are_checked(network: PackedNetwork, message: str) -> None:
    """Each rule of an attention program names node or tensor and what it must be."""
    with pytest.raises(PackedFormatError, match=f"^{re.escape(message)}$"):
        graph.check(network)


def _pim(name: str = "stem", tensors: dict[str, Any] | None = None, **attrs: Any) -> PackedNetwork:
    """Return the network on `pim` with these changes of one node."""
    node = next(node for node in pim().nodes if node.name == name)
    return _replaced(
        pim(), name, attrs={**node.attrs, **attrs}, tensors={**node.tensors, **(tensors or {})}
    )


def test_shapes_of_a_network_on_pim() -> None:
    """Layers on the macro have the shapes of those on the array, for each decomposition."""
    for decomposition in DECOMPOSITIONS:
        values = graph.check(pim(decomposition=decomposition))
        assert tuple(values["body"]) == ("i8", (8, 6, 6))
        assert tuple(values["down"]) == ("i8", (7, 3, 3))
        assert tuple(values["head"]) == ("i16", (10,))


COLUMNS = "columns must be at least 4 and a multiple of mux, and mux a multiple or a divisor of 4"
KNOWN = (
    "known are mode, relu, wide, decomposition, weight_bits, activation_bits, slice_bits, adc_bits,"
    " group_rows, columns, mux, noise_seed, grid, grid_lsb, grid_offset"
)
PARAMS = "weight must have the parameters {'encoding': 'twos', 'bits': 4, 'rows': 13}, not {'enco"
WINDOW = "kernel, stride, padding, dilation"


@pytest.mark.parametrize(
    ("network", "subject", "message"),
    [
        (_pim(slice_bits=3), "node 'stem'", "slice_bits must divide activation_bits = 4, not 3"),
        (_pim(mux=3), "node 'stem'", f"{COLUMNS}, not 24 and 3"),
        (_pim(columns=2, mux=2), "node 'stem'", f"{COLUMNS}, not 2 and 2"),
        (_pim(columns=25), "node 'stem'", f"{COLUMNS}, not 25 and 4"),
        (_pim(group_rows=13), "node 'stem'", PARAMS),
        (_pim(decomposition="differential"), "node 'stem'",
         PARAMS.replace("twos", "differential").replace("13", "12")),
        (_pim(columns=32), "node 'stem'",
         "transfer must have the shape (1, 37) or (32, 37), not (24, 37)"),
        (_pim(slice_bits=1), "node 'stem'",
         "transfer must have the shape (1, 13) or (24, 13), not (24, 37)"),
        (_pim(tensors={"noise": raw.encode(np.zeros(24, np.int16))}), "node 'stem'",
         "noise must have one axis of 4, 8, 16 .. 1024 entries, not shape (24,)"),
        (_pim(tensors={"noise": raw.encode(np.zeros(2048, np.int16))}), "node 'stem'",
         "noise must have one axis of 4, 8, 16 .. 1024 entries, not shape (2048,)"),
        (_pim(tensors={"noise": raw.encode(np.zeros(16, np.int32))}), "tensor stem:noise",
         "dtype must be int16, not int32"),
        (_pim(tensors={"epilogue": raw.encode(np.full(8, 1 << 55, np.uint64))}),
         "tensor stem:epilogue", "bits 55..63 of each word must be 0"),
        (_pim(tensors={"epilogue": raw.encode(np.zeros(9, np.uint64))}), "tensor stem:epilogue",
         "shape must be (8,), not (9,)"),
        (_pim(tensors={"weight": cnn().nodes[1].tensors["weight"]}), "tensor stem:weight",
         "codec must be 'bitplane', not 'int4'"),
        (_pim(groups=2), "node 'stem'", f"unknown attribute 'groups'; {KNOWN}, {WINDOW}"),
        (_pim("head", kernel=[1, 1]), "node 'head'", f"unknown attribute 'kernel'; {KNOWN}"),
        (_pim(kernel=[3, 2]), "node 'stem'", "weight must have K = 3 / 1 x 3 x 2, not 27"),
        (_pim(adc_bits=11), "node 'stem'", "attribute adc_bits must be an int in 2..10, not 11"),
    ],
)  # fmt: skip
def test_layers_on_pim_are_checked(network: PackedNetwork, subject: str, message: str) -> None:
    """Each rule of a layer on the macro names node or tensor and what it must be."""
    with pytest.raises(PackedFormatError, match=f"^{re.escape(f'{subject}: {message}')}"):
        graph.check(network)


def test_largest_layers_on_pim() -> None:
    """256 groups and 65,536 values are legal; one more of either is not."""
    network = _pim("head", group_rows=1)
    node = network.nodes[-1]

    def changed(k: int, slice_bits: int, rows: int) -> PackedNetwork:
        attrs = {**node.attrs, "group_rows": rows, "weight_bits": 8, "activation_bits": 8,
                 "decomposition": "native", "slice_bits": slice_bits}  # fmt: skip
        entries = rows * (2**slice_bits - 1) * 255 + 1
        tensors = {
            **node.tensors,
            "weight": bitplane.encode(np.zeros((10, k), np.int8), bits=8, rows=rows),
            "transfer": raw.encode(np.zeros((1, entries), np.int16)),
        }
        only = replace(node, inputs=("codes",), attrs=attrs, tensors=tensors)
        return PackedNetwork("one", (Value("codes", "i8", (k,)),), (only,), ("head",))

    graph.check(changed(256, 1, 1))
    graph.check(changed(9, 8, 1))  # 255 * 255 + 1 values
    graph.check(changed(9, 1, 257))  # 257 * 255 + 1 values, the most
    with pytest.raises(PackedFormatError, match=r"^node 'head': K must take at most 256 groups of"):
        graph.check(changed(257, 1, 1))
    with pytest.raises(PackedFormatError, match=r"^node 'head': a column must have at most 65536"):
        graph.check(changed(10, 8, 2))


def _xnor(name: str = "pooled", tensors: dict[str, Any] | None = None, **attrs: Any) -> Any:
    """Return the network on `xnor` with these changes of one node."""
    node = next(node for node in xnor().nodes if node.name == name)
    return _replaced(
        xnor(), name, attrs={**node.attrs, **attrs}, tensors={**node.tensors, **(tensors or {})}
    )


def test_shapes_of_a_network_on_xnor() -> None:
    """Windows that do not overlap divide the image; those that do not fit are left out."""
    values = graph.check(xnor())
    assert tuple(values["body"]) == ("i8", (8, 8, 8))
    assert tuple(values["pooled"]) == ("i8", (12, 4, 4))
    assert tuple(values["last"]) == ("i8", (7, 4, 2))
    assert tuple(values["head"]) == ("i16", (10,))
    nodes = xnor().nodes[:5]
    odd = replace(nodes[4], attrs={**nodes[4].attrs, "pool": [3, 5]})
    network = replace(xnor(), nodes=(*nodes[:4], odd), outputs=("pooled",))
    assert tuple(graph.check(network)["pooled"]) == ("i8", (12, 2, 1))


XNOR_KNOWN = "known are mode, relu, wide"


@pytest.mark.parametrize(
    ("network", "subject", "message"),
    [
        (_xnor(mode="fp16"), "node 'pooled'",
         "attribute mode must be one of 'threshold', 'fixed', not 'fp16'"),
        (_xnor(relu=True), "node 'pooled'",
         "relu and wide must be false where mode is 'threshold'"),
        (_xnor("hidden", wide=True), "node 'hidden'",
         "relu and wide must be false where mode is 'threshold'"),
        (_xnor("body", pool=[1, 2]), "node 'body'",
         "pool must be [1, 1] where mode is not 'threshold'"),
        (_xnor(pool=[9, 8]), "node 'pooled'",
         "a pool window must have at most 64 positions, not [9, 8]"),
        (_xnor(pool=[1, 9]), "node 'pooled'", "a pool window [1, 9] must fit the image (8, 8)"),
        (_xnor(pool=[0, 1]), "node 'pooled'", "attribute pool must be a list of 2 ints in 1..64,"),
        (_xnor(pad_value=2), "node 'pooled'", "attribute pad_value must be an int in -1..1, not 2"),
        (_xnor(groups=2), "node 'pooled'", f"unknown attribute 'groups'; {XNOR_KNOWN}, kernel,"),
        (_xnor("hidden", pool=[1, 1]), "node 'hidden'",
         f"unknown attribute 'pool'; {XNOR_KNOWN}"),
        (_xnor(kernel=[3, 2]), "node 'pooled'", "weight must have K = 8 / 1 x 3 x 2, not 72"),
        (_xnor(tensors={"columns": raw.encode(np.full(12, 1 << 55, np.uint64))}),
         "tensor pooled:columns", "bits 55..63 of each word must be 0"),
        (_xnor(tensors={"columns": raw.encode(np.zeros(13, np.uint64))}), "tensor pooled:columns",
         "shape must be (12,), not (13,)"),
        (_xnor("head", tensors={"columns": raw.encode(np.zeros(9, np.uint64))}),
         "tensor head:columns", "shape must be (10,), not (9,)"),
        (_xnor(tensors={"weight": cnn().nodes[1].tensors["weight"]}), "tensor pooled:weight",
         "codec must be 'binary' or 'ternary', not 'int4'"),
        (_xnor("head", tensors={"epilogue": raw.encode(np.zeros(10, np.uint64))}), "node 'head'",
         "unknown tensor 'epilogue'; linear has weight, columns"),
    ],
)  # fmt: skip
def test_layers_on_xnor_are_checked(network: PackedNetwork, subject: str, message: str) -> None:
    """Each rule of a layer on the array names node or tensor and what it must be."""
    with pytest.raises(PackedFormatError, match=f"^{re.escape(f'{subject}: {message}')}"):
        graph.check(network)


def test_largest_layer_on_xnor() -> None:
    """32,767 inputs are legal; one more is not."""
    node = xnor().nodes[-1]

    def changed(k: int) -> PackedNetwork:
        weight = binary.encode(np.ones((10, k), np.int8))
        only = replace(node, inputs=("codes",), tensors={**node.tensors, "weight": weight})
        return PackedNetwork("one", (Value("codes", "i8", (k,)),), (only,), ("head",))

    graph.check(changed(32767))
    with pytest.raises(PackedFormatError, match=r"^node 'head': K must be at most 32767, not 3276"):
        graph.check(changed(32768))


def test_nodes_that_share_importance_have_the_same_heads() -> None:
    """Head importance is summed over nodes, so a second node with fewer heads is refused."""
    network = _program()
    node = next(node for node in network.nodes if node.op == "attention")
    attrs = {**node.attrs, "heads": 2, "kv_heads": 2, "head_dim": 16, "head_keep": 1}
    scale = raw.encode(np.ones(2, np.float32))
    word = raw.encode(np.ones(2, np.uint32))
    tensors = {
        "query_scale": scale, "key_scale": scale, "value_scale": scale, "softmax": word,
        "output": word,
    }  # fmt: skip
    second = replace(
        node, name="second", inputs=("q", "q", "q"), attrs={**attrs, "rope": "none"},
        tensors=tensors,
    )  # fmt: skip
    message = (
        "node 'second': heads must be that of 'attention', 4, not 2: nodes on engine 'attention' "
        "share importance"
    )
    with pytest.raises(PackedFormatError, match=f"^{re.escape(message)}$"):
        graph.check(replace(network, nodes=(*network.nodes, second)))


def test_engines_of_attention() -> None:
    """Another engine than the two that run attention is refused, with both named."""
    network = transformer()
    nodes = tuple(
        replace(node, engine="w4a8") if node.op == "attention" else node for node in network.nodes
    )
    message = "node 'attention': attention must run on 'vector.dot' or 'attention', not 'w4a8'"
    with pytest.raises(PackedFormatError, match=f"^{re.escape(message)}$"):
        graph.check(replace(network, nodes=nodes))

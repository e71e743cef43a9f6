# SPDX-License-Identifier: Apache-2.0
"""Random packed networks: a CNN and a transformer use every operation, others `pim` and `xnor`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cosil.lowering.pim_transfer import Grid, noise_table, synthetic, with_errors
from cosil.packed import binary, bitplane, int4, raw
from cosil.packed import ternary as ternary_codec
from cosil.packed.decomposition import Decomposition, code_range, encoding, plane_weights, planes
from cosil.packed.network import Node, PackedNetwork, Value
from cosil.packed.tensor import PackedTensor


def epilogue(rng: np.random.Generator, n: int) -> PackedTensor:
    """Return random fixed-point column parameters, raw uint64[N]."""
    bias = rng.integers(-(2**12), 2**12, n).astype(np.int32).view(np.uint32).astype(np.uint64)
    mult = rng.integers(1, 2**16, n, dtype=np.uint64)
    shift = rng.integers(18, 24, n, dtype=np.uint64)
    return raw.encode(bias | mult << np.uint64(32) | shift << np.uint64(48))


def weight(
    rng: np.random.Generator, n: int, k: int, *, group_size: int = 0, channel: bool = True
) -> PackedTensor:
    """Return a random int4 weight: offset binary with group scales, else two's complement."""
    codes = rng.integers(-8, 8, (n, k), dtype=np.int8)
    scale = rng.uniform(1e-4, 1e-2, n).astype(np.float32) if channel else None
    if not group_size:
        return int4.encode(codes, channel=scale)
    groups = rng.uniform(0.5, 15.9, (-(-k // group_size), n)).astype(np.float16)
    return int4.encode(codes, encoding="offset", channel=scale, group=groups, group_size=group_size)


def cnn(seed: int = 0, *, width: int = 16) -> PackedNetwork:
    """Return a residual CNN on 8x8 images with every integer operation."""
    rng = np.random.default_rng(seed)

    def conv(name: str, source: str, c: int, n: int, **attrs: Any) -> Node:
        groups, kernel = attrs.get("groups", 1), attrs.get("kernel", [3, 3])
        return Node(
            name,
            "conv2d",
            (source,),
            {"mode": "fixed", "relu": True, "kernel": kernel, "scale": 0.05, **attrs},
            {
                "weight": weight(rng, n, c // groups * kernel[0] * kernel[1], channel=False),
                "epilogue": epilogue(rng, n),
            },
            "w4a8",
        )

    pooled = {"kernel": [2, 2], "stride": [2, 2]}
    nodes = (
        Node("quantize", "quantize", ("image",), {"scale": 0.125}),
        conv("stem", "quantize", 3, width, padding=[1, 1]),
        conv("block.conv1", "stem", width, 2 * width, stride=[2, 2], padding=[1, 1]),
        conv("block.conv2", "block.conv1", 2 * width, 2 * width, groups=2, padding=[2, 2],
             dilation=[2, 2], relu=False, wide=True),
        Node("block.requantize", "requantize", ("block.conv2",), {"mul": 300, "shift": 12}),
        Node("block.rows", "slice", ("stem",), {"dim": 2, "start": 0, "stop": 2**40, "step": 2}),
        Node("block.columns", "slice", ("block.rows",),
             {"dim": 3, "start": 0, "stop": 8, "step": 2}),
        Node("block.pad", "pad_channels", ("block.columns",),
             {"before": width // 2, "after": width // 2}),
        Node("block.add", "add", ("block.requantize", "block.pad"),
             {"mul_a": 90, "mul_b": 110, "shift": 7, "relu": True}),
        Node("average", "avgpool", ("block.add",), {**pooled, "mul": 16384, "shift": 16}),
        Node("greatest", "maxpool", ("block.add",), pooled),
        Node("joined", "concat", ("average", "greatest"), {"dim": 1}),
        Node("turned", "transpose", ("joined",), {"perm": [0, 2, 3, 1]}),
        Node("rows", "reshape", ("turned",), {"shape": [-1, 4, 4 * width]}),
        Node("flat", "flatten", ("rows",), {"start_dim": 1}),
        Node("positive", "relu", ("flat",)),
        Node("head", "linear", ("positive",), {"mode": "fixed", "wide": True, "scale": 0.01},
             {"weight": weight(rng, 10, 16 * width, group_size=24, channel=False),
              "epilogue": epilogue(rng, 10)}, "w4a8"),
    )  # fmt: skip
    inputs = (Value("image", "f32", (3, 8, 8)),)
    return PackedNetwork("fuzz-cnn", inputs, nodes, ("head",), {"method": "random", "seed": seed})


def pim_layer(
    rng: np.random.Generator,
    n: int,
    k: int,
    *,
    noise: float = 0.0,
    errors: bool = False,
    grid: str = "B",
    **attrs: Any,
) -> tuple[dict[str, Any], dict[str, PackedTensor]]:
    """Return random attributes and tensors of a layer on engine `pim`.

    Parameters
    ----------
    noise : float
        Standard deviation in LSB; 0 for none.
    errors : bool
        Whether each column has a transfer table of its own, or all share the grid's.
    grid : {"B", "A"}
        Grid A has an LSB of 2 units from 3 on.
    attrs
        Replace the default attributes.
    """
    program: dict[str, Any] = {
        "mode": "fixed", "decomposition": "bit_serial", "weight_bits": 4, "activation_bits": 4,
        "slice_bits": 2, "adc_bits": 5, "group_rows": 12, "columns": 24, "mux": 4, "grid": grid,
        "noise_seed": 5, **attrs,
    }  # fmt: skip
    if grid == "A":
        program |= {"grid_lsb": 2, "grid_offset": 3}
    decomposition: Decomposition = program["decomposition"]
    bits, adc_bits, columns = (program[name] for name in ("weight_bits", "adc_bits", "columns"))
    ideal = Grid(decomposition, bits, program["slice_bits"], program["group_rows"], adc_bits,
                 program["grid"], program.get("grid_lsb", 1),
                 program.get("grid_offset", 0))  # fmt: skip
    table = ideal.table()[None]
    if errors:
        each = planes(decomposition, bits)
        columns = program["columns"] // each * each
        drawn = synthetic(ideal, columns, gain_sigma=0.03, offset_sigma=0.4, inl_peak=0.8,
                          seed=int(rng.integers(2**31)))  # fmt: skip
        table = with_errors(ideal, drawn)
    least = -(2 ** (bits - 1)) + (decomposition == "differential")
    codes = rng.integers(least, 2 ** (bits - 1), (n, k))
    slices = ((1 << program["activation_bits"]) - 1) // ((1 << program["slice_bits"]) - 1)
    most = (code_range(decomposition, adc_bits)[1] * slices * -(-k // program["group_rows"])
            * max(map(abs, plane_weights(decomposition, bits))))  # fmt: skip
    bias = rng.integers(-4 * most, 4 * most + 1, n).astype(np.int32)  # sixteenths
    # A sum of the largest magnitude gives about four times the output's range.
    mult = rng.integers(2**14, 2**16, n, dtype=np.uint64)
    shift = np.uint64(12 + max(0, (most >> 1).bit_length()) - (8 if program.get("wide") else 0))
    words = bias.view(np.uint32).astype(np.uint64) | mult << np.uint64(32)
    words |= shift << np.uint64(48) | rng.integers(0, 2, n, dtype=np.uint64) << np.uint64(54)
    weight = bitplane.encode(codes, encoding=encoding(decomposition), bits=bits,
                             rows=program["group_rows"])  # fmt: skip
    tensors = {"weight": weight, "epilogue": raw.encode(words), "transfer": raw.encode(table)}
    if noise:
        tensors["noise"] = raw.encode(noise_table(noise, 4))
    return program, tensors


def pim(seed: int = 0, *, decomposition: Decomposition = "bit_serial") -> PackedNetwork:
    """Return a residual CNN on 6x6 images whose products run on the PIM macro.

    Its layers have more outputs than a tile, short last groups, both grids, shared and own transfer
    tables, with noise and without.
    """
    rng = np.random.default_rng(seed)

    columns = {"bit_serial": 24, "differential": 12, "native": 8}[decomposition]

    def layer(name: str, op: str, source: str, n: int, k: int, **attrs: Any) -> Node:
        attrs = {"decomposition": decomposition, "columns": columns, **attrs}
        program, tensors = pim_layer(rng, n, k, **attrs)
        return Node(name, op, (source,), program, tensors, "pim")

    near = {"kernel": [3, 3], "padding": [1, 1]}
    nodes = (
        Node("quantize", "quantize", ("image",), {"scale": 0.25}),
        layer("stem", "conv2d", "quantize", 8, 27, relu=True, errors=True, noise=0.5, **near),
        layer("body", "conv2d", "stem", 8, 72, relu=True, group_rows=18, grid="A", **near),
        Node("add", "add", ("stem", "body"), {"mul_a": 90, "mul_b": 110, "shift": 7}),
        layer("down", "conv2d", "add", 7, 32, kernel=[2, 2], stride=[2, 2], noise=0.3, mux=8,
              columns=16),
        Node("flat", "flatten", ("down",), {"start_dim": 1}),
        layer("head", "linear", "flat", 10, 63, wide=True, errors=True, slice_bits=1),
    )  # fmt: skip
    inputs = (Value("image", "f32", (3, 6, 6)),)
    return PackedNetwork("fuzz-pim", inputs, nodes, ("head",), {"method": "random", "seed": seed})


def xnor_layer(
    rng: np.random.Generator,
    n: int,
    k: int,
    *,
    ternary: bool = False,
    polarity: Literal["one_is_plus", "one_is_minus"] = "one_is_plus",
    **attrs: Any,
) -> tuple[dict[str, Any], dict[str, PackedTensor]]:
    """Return random attributes and tensors of a layer on engine `xnor`, mode `threshold`.

    With `ternary` a third of the weights is 0. `attrs` are added; the columns suit mode `fixed`.
    """
    program: dict[str, Any] = {"mode": "threshold", **attrs}
    if ternary:
        weight = ternary_codec.encode(rng.integers(-1, 2, (n, k)))
    else:
        weight = binary.encode(rng.choice(np.array([-1, 1]), (n, k)), polarity=polarity)
    # About as many sums above as below; one output of eight is constant.
    spread = int(np.sqrt(k)) + 1
    low = rng.integers(-spread, spread + 1, n)
    low[rng.random(n) < 0.125] = -(2**31)
    words = low.astype(np.int32).view(np.uint32).astype(np.uint64)
    if program["mode"] == "fixed":
        words = rng.integers(-16 * spread, 16 * spread, n).astype(np.int32)
        words = words.view(np.uint32).astype(np.uint64)
        words |= rng.integers(2**14, 2**16, n, dtype=np.uint64) << np.uint64(32)
        # Sums of one standard deviation give about the output's range.
        shift = 12 + (spread >> 1).bit_length() - (8 if program.get("wide") else 0)
        words |= np.uint64(shift) << np.uint64(48)
    words |= rng.integers(0, 2, n, dtype=np.uint64) << np.uint64(54)
    return program, {"weight": weight, "columns": raw.encode(words)}


def xnor(seed: int = 0) -> PackedNetwork:
    """Return a residual CNN on 8x8 images whose products run on the XNOR array.

    It pads with 0, -1 and 1, pools bits, has ternary weights and both polarities of binary ones,
    and a shortcut in fixed point.
    """
    rng = np.random.default_rng(seed)

    def layer(name: str, op: str, source: str, n: int, k: int, **attrs: Any) -> Node:
        return Node(name, op, (source,), *xnor_layer(rng, n, k, **attrs), "xnor")

    near = {"kernel": [3, 3], "padding": [1, 1]}
    nodes = (
        Node("quantize", "quantize", ("image",), {"scale": 0.25}),
        layer("stem", "conv2d", "quantize", 8, 27, ternary=True, mode="fixed", **near),
        layer("body", "conv2d", "stem", 8, 72, mode="fixed", **near),
        Node("add", "add", ("stem", "body"), {"mul_a": 90, "mul_b": 110, "shift": 7}),
        layer("pooled", "conv2d", "add", 12, 72, pool=[2, 2], polarity="one_is_minus", **near),
        layer("spread", "conv2d", "pooled", 9, 48, kernel=[2, 2], padding=[1, 2], dilation=[2, 1],
              stride=[1, 2], pad_value=-1),
        layer("last", "conv2d", "spread", 7, 81, pad_value=1, pool=[1, 2], ternary=True, **near),
        Node("flat", "flatten", ("last",), {"start_dim": 1}),
        layer("hidden", "linear", "flat", 20, 56),
        layer("head", "linear", "hidden", 10, 20, mode="fixed", wide=True),
    )  # fmt: skip
    inputs = (Value("image", "f32", (3, 8, 8)),)
    return PackedNetwork("fuzz-xnor", inputs, nodes, ("head",), {"method": "random", "seed": seed})


def attention_program(
    rng: np.random.Generator, heads: int, kv_heads: int, **attrs: Any
) -> tuple[dict[str, Any], dict[str, PackedTensor]]:
    """Return random attributes and tensors of attention on engine `attention`, heads 8 wide."""
    program = {"heads": heads, "kv_heads": kv_heads, "head_dim": 8, "causal": True,
               "msb_bits": 6, "lsb_bits": 4, "value_bits": 6, "lsb_low": 600, "lsb_high": 4095,
               "token_keep": 600_000, "token_limit": 20, "token_recent": 3, "head_keep": heads - 1,
               "value_keep": 300_000, "value_limit": 8, "out_scale": 2**-13, **attrs}  # fmt: skip

    def scales(n: int, low: float, high: float) -> PackedTensor:
        return raw.encode(rng.uniform(low, high, n).astype(np.float32))

    def factors(shift: int) -> PackedTensor:
        mult = rng.integers(2**15, 2**16, heads)
        return raw.encode((mult | shift << 16).astype(np.uint32))

    return program, {
        "query_scale": scales(heads, 5e-4, 2e-3), "key_scale": scales(kv_heads, 2e-3, 4e-3),
        "value_scale": scales(kv_heads, 0.02, 0.06), "softmax": factors(25), "output": factors(28),
    }  # fmt: skip


def transformer(
    seed: int = 0, *, dim: int = 16, vocabulary: int = 40, engine: str = "vector.dot"
) -> PackedNetwork:
    """Return one causal block with grouped-query heads, rotary embedding and SwiGLU.

    On engine `attention` its heads are 8 wide, so that `dim` must be 32.
    """
    rng = np.random.default_rng(seed)
    heads, kv_heads, head_dim, length = 4, 2, dim // 4, 32

    def linear(
        name: str, source: str, k: int, n: int, group_size: int = 0, bias: bool = False
    ) -> Node:
        tensors = {"weight": weight(rng, n, k, group_size=group_size)}
        if bias:
            tensors["bias"] = raw.encode(rng.normal(0, 0.1, n).astype(np.float16))
        return Node(name, "linear", (source,), {"mode": "fp16"}, tensors, "w4a8")

    def table(name: str, f: NDArray[np.float64]) -> dict[str, PackedTensor]:
        return {name: raw.encode(np.rint(f * 4096).clip(-32768, 32767).astype(np.int16))}

    x = np.arange(257) / 16 - 8
    angles = np.arange(length)[:, None] * 0.3 ** np.arange(head_dim // 2)[None]
    tables = {
        "exp": raw.encode(np.rint(2.0 ** (15 - np.arange(1025) / 1024)).astype(np.uint16)),
        "cos": raw.encode(np.cos(angles).astype(np.float32)),
        "sin": raw.encode(np.sin(angles).astype(np.float32)),
    }
    gamma = {"gamma": raw.encode(rng.uniform(0.5, 1.5, dim).astype(np.float32))}
    beta = {"beta": raw.encode(rng.normal(0, 0.1, dim).astype(np.float32))}
    embedding = {"table": raw.encode(rng.normal(0, 0.5, (vocabulary, dim)).astype(np.float16))}
    place = {"table": raw.encode(rng.normal(0, 0.1, (length, dim)).astype(np.float16))}
    attention: dict[str, Any] = {
        "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "causal": True,
        "scale": head_dim**-0.5, "rope": "half",
    }  # fmt: skip
    if engine == "attention":
        attention, program = attention_program(rng, heads, kv_heads, rope="half")
        tables = {"cos": tables["cos"], "sin": tables["sin"], **program}
    nodes = (
        Node("token", "embedding", ("ids",), {}, embedding),
        Node("place", "embedding", ("ids",), {"positions": True}, place),
        Node("embedded", "add", ("token", "place")),
        Node("norm1", "rmsnorm", ("embedded",), {"eps": 1e-5}, gamma),
        linear("q", "norm1", dim, dim, 8),
        linear("k", "norm1", dim, kv_heads * head_dim, 8),
        linear("v", "norm1", dim, kv_heads * head_dim, 8, bias=True),
        Node("attention", "attention", ("q", "k", "v"), attention, tables, engine),
        linear("o", "attention", dim, dim, 5),
        Node("residual1", "add", ("embedded", "o")),
        Node("norm2", "layernorm", ("residual1",), {"eps": 1e-5}, {**gamma, **beta}),
        linear("gate", "norm2", dim, 2 * dim),
        linear("up", "norm2", dim, 2 * dim),
        Node("silu", "silu", ("gate",), {}, table("table", x / (1 + np.exp(-x)))),
        Node("gated", "mul", ("silu", "up")),
        Node("gelu", "gelu", ("gated",), {"approximate": "tanh"},
             table("table", x / (1 + np.exp(-1.7 * x)))),
        linear("down", "gelu", 2 * dim, dim, bias=True),
        Node("scaled", "scale", ("down",), {"factor": 0.5}),
        Node("residual2", "add", ("residual1", "scaled")),
        linear("logits", "residual2", dim, vocabulary),
    )  # fmt: skip
    inputs = (Value("ids", "ids", (0,)),)
    return PackedNetwork(
        "fuzz-transformer", inputs, nodes, ("logits",), {"seed": seed, "note": "é"}
    )

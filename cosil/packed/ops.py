# SPDX-License-Identifier: Apache-2.0
"""The operations of a packed network: one table of their inputs, engines, attributes and tensors.

`docs/packed-format.md` gives their arithmetic. An operation whose rules depend on the dtype of its
first input, or on its engine, has one entry for each. Shapes follow in :mod:`cosil.packed.shapes`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from cosil.packed.decomposition import DECOMPOSITIONS
from cosil.packed.errors import PackedFormatError

REQUIRED = object()
"""Default of an attribute that must be present."""

DIM_MAX = 2**31 - 1
FLOAT32_MAX = 3.4028234663852886e38
FLOAT32_TINY = 2.0**-126
XNOR_INPUTS_MAX = 32767
"""Most inputs of a layer on engine `xnor`."""
XNOR_POOL_MAX = 64
"""Most positions of a pool window there."""


@dataclass(frozen=True, slots=True)
class Attr:
    """Rule of one attribute.

    Attributes
    ----------
    kind : {"int", "float", "bool", "choice", "ints"}
        A float may be written as an integer; ``ints`` is a list of `length` ints (0 = 1 to 8).
    low, high : float
        Bounds, both included, of each number.
    step : int
        Of ``int``: legal are `low`, `low` + `step`, ... `high`.
    choices : tuple of str
        Legal values of a choice.
    default : object
        Value where the attribute is left out; `REQUIRED` where it may not be.
    """

    kind: Literal["int", "float", "bool", "choice", "ints"]
    low: float = 0
    high: float = DIM_MAX
    choices: tuple[str, ...] = ()
    length: int = 0
    default: Any = REQUIRED
    step: int = 1

    def check(self, subject: str, name: str, value: Any) -> None:
        """Raise `PackedFormatError` unless `value` obeys the rule."""
        if self._holds(value):
            return
        raise PackedFormatError(
            subject, "attribute", f"attribute {name} must be {self}, not {_short(value)}"
        )

    def _holds(self, value: Any) -> bool:
        match self.kind:
            case "bool":
                return isinstance(value, bool)
            case "choice":
                return isinstance(value, str) and value in self.choices
            case "ints":
                if not isinstance(value, (list, tuple)):
                    return False
                items = cast("list[Any]", value)
                least, most = (self.length, self.length) if self.length else (1, 8)
                return least <= len(items) <= most and all(
                    _is_int(item) and self.low <= item <= self.high for item in items
                )
            case "int":
                return (
                    _is_int(value)
                    and self.low <= value <= self.high
                    and not (value - int(self.low)) % self.step
                )
            case "float":
                if isinstance(value, float):
                    return math.isfinite(value) and self.low <= value <= self.high
                return _is_int(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        """Return what the rule asks for, to stand after "must be"."""
        match self.kind:
            case "bool":
                return "true or false"
            case "choice":
                return f"one of {', '.join(map(repr, self.choices))}"
            case "ints":
                return f"a list of {self.length or '1 to 8'} ints in {self.low}..{self.high}"
            case "int" if self.step > 1:
                legal = range(int(self.low), int(self.high) + 1, self.step)
                return f"one of {', '.join(map(str, legal))}"
            case "int":
                return f"an int in {self.low}..{self.high}"
            case "float":
                return f"a finite number in {self.low:g}..{self.high:g}"


@dataclass(frozen=True, slots=True)
class TensorRule:
    """Rule of one tensor.

    Attributes
    ----------
    codec : str or tuple of str
        Codec, or those that may be.
    dtype : str
        Dtype of the words.
    required : bool
        Whether the node must have it.
    scales : tuple of str
        Scales that must be there.
    bits : int
        Bits in use of each word; the others must be 0 (0: all are in use).
    shift_max : int
        Largest number in bits 16..21 of each word, where `bits` is 22.
    positive : bool
        Whether each float must be at least 2^-126.
    """

    codec: str | tuple[str, ...]
    dtype: str = "uint32"
    required: bool = True
    scales: tuple[str, ...] = ()
    bits: int = 0
    shift_max: int = 63
    positive: bool = False


@dataclass(frozen=True, slots=True)
class Op:
    """Rules of one operation.

    Attributes
    ----------
    inputs : tuple of tuple of str
        Legal dtypes of each input; all inputs of an operation with one entry and `many` share it.
    many : bool
        Two inputs or more, all of one dtype.
    """

    engine: str
    inputs: tuple[tuple[str, ...], ...]
    attrs: Mapping[str, Attr] = field(default_factory=dict[str, Attr])
    tensors: Mapping[str, TensorRule] = field(default_factory=dict[str, TensorRule])
    many: bool = False


def attr(node_op: Op, attrs: Mapping[str, Any], name: str) -> Any:
    """Return an attribute or its default."""
    return attrs.get(name, node_op.attrs[name].default)


def engine_attr(op: str, engine: str, attrs: Mapping[str, Any], name: str) -> Any:
    """Return an attribute, or its default where `op` runs on `engine` (its first entry there)."""
    return attr(next(entry for entry in OPS[op] if entry.engine == engine), attrs, name)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


_ANY = ("f32", "i8", "i16", "f16")
_BOOL = Attr("bool", default=False)
_SIZE = Attr("int", 1, 65536)
_SHIFT = Attr("int", 0, 63)
_MUL = Attr("int", 0, 65535)
_FLOAT = Attr("float", -FLOAT32_MAX, FLOAT32_MAX)
_INDEX = Attr("int", -DIM_MAX - 1, 2**63 - 1)
_KERNEL = Attr("ints", 1, 65535, length=2)
_ROPE = Attr("choice", choices=("none", "interleaved", "half"), default="none")
_STRIDE = Attr("ints", 1, 65535, length=2, default=(1, 1))
_PADDING = Attr("ints", 0, 65535, length=2, default=(0, 0))

_INFO = {
    "scale": Attr("float", 0, FLOAT32_MAX, default=None),
    "approximate": Attr("choice", choices=("none", "tanh"), default="none"),
}
"""Attributes that any node may carry for information; nothing computes with them."""

_POOL = {"kernel": _KERNEL, "stride": _STRIDE, "padding": _PADDING}
_FIXED = {"mode": Attr("choice", choices=("fixed",)), "relu": _BOOL, "wide": _BOOL}
_WEIGHT = {"weight": TensorRule("int4"), "epilogue": TensorRule("raw", "uint64", bits=54)}
_CONV = {
    "kernel": _KERNEL, "stride": _STRIDE, "padding": _PADDING, "dilation": _STRIDE,
}  # fmt: skip
_PIM = {
    **_FIXED,
    "decomposition": Attr("choice", choices=DECOMPOSITIONS),
    "weight_bits": Attr("int", 2, 8),
    "activation_bits": Attr("int", 1, 8),
    "slice_bits": Attr("int", 1, 8),
    "adc_bits": Attr("int", 2, 10),
    "group_rows": Attr("int", 1, 1024),
    "columns": Attr("int", 1, 4096),
    "mux": Attr("int", 1, 4096),
    "noise_seed": Attr("int", 0, 2**32 - 1, default=0),
    # For information: the transfer tensor says what the ADCs do.
    "grid": Attr("choice", choices=("A", "B"), default=None),
    "grid_lsb": Attr("int", 1, 65536, default=None),
    "grid_offset": Attr("int", -65536, 65536, default=None),
}
_PIM_TENSORS = {
    "weight": TensorRule("bitplane", "uint64"),
    "epilogue": TensorRule("raw", "uint64", bits=55),
    "transfer": TensorRule("raw", "int16"),
    "noise": TensorRule("raw", "int16", required=False),
}
_XNOR = {
    "mode": Attr("choice", choices=("threshold", "fixed")),
    "relu": _BOOL,
    "wide": _BOOL,
}
_XNOR_TENSORS = {
    "weight": TensorRule(("binary", "ternary"), "uint64"),
    "columns": TensorRule("raw", "uint64", bits=55),
}
_KEEP = Attr("int", 1, 1_000_000, default=1_000_000)
_LIMIT = Attr("int", 1, 65536, default=65536)
_LSB = Attr("int", 0, 4095)
_ROTATION = {
    "cos": TensorRule("raw", "float32", required=False),
    "sin": TensorRule("raw", "float32", required=False),
}
_ACTIVATION = Op("vector", (("f16",),), {}, {"table": TensorRule("raw", "int16")})
_NORM = Op(
    "vector",
    (("f16",),),
    {"eps": Attr("float", 0, 1)},
    {"gamma": TensorRule("raw", "float32"), "beta": TensorRule("raw", "float32", required=False)},
)

OPS: dict[str, tuple[Op, ...]] = {
    "linear": (
        Op("w4a8", (("i8",),), _FIXED, _WEIGHT),
        Op(
            "w4a8",
            (("f16",),),
            {"mode": Attr("choice", choices=("fp16",))},
            {
                "weight": TensorRule("int4", scales=("channel",)),
                "bias": TensorRule("raw", "float16", required=False),
            },
        ),
        Op("pim", (("i8",),), _PIM, _PIM_TENSORS),
        Op("xnor", (("i8",),), _XNOR, _XNOR_TENSORS),
    ),
    "conv2d": (
        Op(
            "w4a8",
            (("i8",),),
            {**_FIXED, **_CONV, "groups": Attr("int", 1, 65536, default=1)},
            _WEIGHT,
        ),
        Op("pim", (("i8",),), {**_PIM, **_CONV}, _PIM_TENSORS),
        Op(
            "xnor",
            (("i8",),),
            {
                **_XNOR,
                **_CONV,
                "pad_value": Attr("int", -1, 1, default=0),
                "pool": Attr("ints", 1, XNOR_POOL_MAX, length=2, default=(1, 1)),
            },
            _XNOR_TENSORS,
        ),
    ),
    "quantize": (Op("vector", (("f32",),), {"scale": Attr("float", FLOAT32_TINY, FLOAT32_MAX)}),),
    "add": (
        Op(
            "vector",
            (("i8",), ("i8",)),
            {"mul_a": _MUL, "mul_b": _MUL, "shift": _SHIFT, "relu": _BOOL},
        ),
        Op("vector", (("f16",), ("f16",))),
    ),
    "mul": (Op("vector", (("f16",), ("f16",))),),
    "scale": (Op("vector", (("f16",),), {"factor": _FLOAT}),),
    "relu": (Op("vector", (_ANY,)),),
    "gelu": (_ACTIVATION,),
    "silu": (_ACTIVATION,),
    "layernorm": (_NORM,),
    "rmsnorm": (_NORM,),
    "attention": (
        Op(
            "vector.dot",
            (("f16",), ("f16",), ("f16",)),
            {
                "heads": _SIZE,
                "kv_heads": Attr("int", 1, 65536, default=None),
                "head_dim": _SIZE,
                "causal": _BOOL,
                "scale": _FLOAT,
                "rope": _ROPE,
            },
            {"exp": TensorRule("raw", "uint16"), **_ROTATION},
        ),
        Op(
            "attention",
            (("f16",), ("f16",), ("f16",)),
            {
                "heads": Attr("int", 1, 64),
                "kv_heads": Attr("int", 1, 64, default=None),
                "head_dim": Attr("int", 8, 128, step=8),
                "causal": _BOOL,
                "rope": _ROPE,
                "msb_bits": Attr("int", 4, 8, step=2),
                "lsb_bits": Attr("int", 0, 4, step=4),
                "value_bits": Attr("int", 4, 8, step=2),
                "lsb_low": _LSB,
                "lsb_high": _LSB,
                "token_keep": _KEEP,
                "token_limit": _LIMIT,
                "token_recent": Attr("int", 0, 65535, default=0),
                "head_keep": Attr("int", 1, 64, default=64),
                "value_keep": _KEEP,
                "value_limit": _LIMIT,
                "importance": Attr("bool", default=True),
                "out_scale": Attr("float", FLOAT32_TINY, FLOAT32_MAX),
            },
            {
                "query_scale": TensorRule("raw", "float32", positive=True),
                "key_scale": TensorRule("raw", "float32", positive=True),
                "value_scale": TensorRule("raw", "float32", positive=True),
                "softmax": TensorRule("raw", "uint32", bits=22, shift_max=47),
                "output": TensorRule("raw", "uint32", bits=22),
                **_ROTATION,
            },
        ),
    ),
    "avgpool": (
        Op(
            "vector",
            (("i8",),),
            {
                **_POOL,
                "mul": _MUL,
                "shift": _SHIFT,
                "count_include_pad": Attr("bool", default=True),
            },
        ),
    ),
    "maxpool": (Op("vector", (("i8",),), _POOL),),
    "requantize": (Op("vector", (("i8", "i16"),), {"mul": _MUL, "shift": _SHIFT}),),
    "embedding": (
        Op("vector", (("ids",),), {"positions": _BOOL}, {"table": TensorRule("raw", "float16")}),
    ),
    "flatten": (Op("vector", (_ANY,), {"start_dim": Attr("int", 1, 7)}),),
    "reshape": (Op("vector", (_ANY,), {"shape": Attr("ints", -1, DIM_MAX)}),),
    "slice": (
        Op(
            "vector",
            (_ANY,),
            {
                "dim": Attr("int", 1, 7),
                "start": _INDEX,
                "stop": _INDEX,
                "step": Attr("int", 1, DIM_MAX, default=1),
            },
        ),
    ),
    "pad_channels": (
        Op("vector", (_ANY,), {"before": Attr("int", 0, 65536), "after": Attr("int", 0, 65536)}),
    ),
    "transpose": (Op("vector", (_ANY,), {"perm": Attr("ints", 0, 7)}),),
    "concat": (Op("vector", (_ANY,), {"dim": Attr("int", 1, 7)}, many=True),),
}
"""Name of each operation -> its rules, one entry per dtype of the first input and engine."""


def rules(subject: str, op: str, dtypes: tuple[str, ...], engine: str) -> Op:
    """Return the entry of `op` for these input dtypes and this engine."""
    if op not in OPS:
        raise PackedFormatError(
            subject, "operation", f"unknown operation {op!r}; known are {', '.join(OPS)}"
        )
    engines: list[str] = []
    for entry in OPS[op]:
        expected = entry.inputs * (max(2, len(dtypes)) if entry.many else 1)
        if len(dtypes) == len(expected) and all(
            dtype in legal for dtype, legal in zip(dtypes, expected, strict=True)
        ):
            if entry.many and len(set(dtypes)) > 1:
                break
            if entry.engine == engine:
                return entry
            engines.append(entry.engine)
    if engines:
        known = " or ".join(map(repr, engines))
        raise PackedFormatError(subject, "engine", f"{op} must run on {known}, not {engine!r}")
    forms = dict.fromkeys(
        "("
        + ", ".join("|".join(legal) for legal in entry.inputs)
        + (", ...)" if entry.many else ")")
        for entry in OPS[op]
    )
    raise PackedFormatError(
        subject, "input types", f"{op} must read {' or '.join(forms)}, not ({', '.join(dtypes)})"
    )


def check_attrs(subject: str, entry: Op, attrs: Mapping[str, Any]) -> None:
    """Check the attributes of a node against its entry."""
    for name, rule in entry.attrs.items():
        if name in attrs:
            rule.check(subject, name, attrs[name])
        elif rule.default is REQUIRED:
            raise PackedFormatError(
                subject, "attribute", f"attribute {name} is missing; it must be {rule}"
            )
    for name, value in attrs.items():
        if name in entry.attrs:
            continue
        if name not in _INFO:
            known = ", ".join(entry.attrs) or "none"
            raise PackedFormatError(
                subject, "attribute", f"unknown attribute {_short(name)}; known are {known}"
            )
        _INFO[name].check(subject, name, value)

# SPDX-License-Identifier: Apache-2.0
"""What a machine is: its engines, an ideal memory and a vector unit."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast

from cosil.engines.attention import LANES_MAX, AttentionSpec
from cosil.engines.common import EngineSpec
from cosil.engines.pim import PimSpec
from cosil.engines.w4a8 import W4A8Spec
from cosil.engines.xnor import XnorSpec
from cosil.errors import CosilError, UnknownNameError
from cosil.packed.network import Node
from energy_models.lib.pricing import MEMORIES
from energy_models.lib.technology import TECHNOLOGIES

E = TypeVar("E", bound=EngineSpec)

PRESETS = Path(__file__).with_name("presets")

VARIANT = ("scales", "weight_encoding", "epilogue")
"""Parameters of the array that a layer decides, unless the machine fixes them."""

FOLLOWS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "attention": {"head_dim": AttentionSpec().head_dim},
    "pim": {"noise_bits": 0},
    "xnor": {"weights": "binary", "epilogue": "threshold"},
})  # fmt: skip
"""Parameters of the other engines that follow each layer, by the table of the engine, with what
stands for them in `Machine`; no machine file names them."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory behind the engine's streams: never busy, never wrong, of stated bandwidth.

    Attributes
    ----------
    bytes_per_cycle : float
        Bytes that all streams together may move in a cycle; 0 = unlimited.
    latency_cycles : int
        Cycles from a request to its earliest response, at least 1.
    energy : str
        Row of energy_models/tables/memories.yaml that prices a byte.
    """

    bytes_per_cycle: float = 0.0
    latency_cycles: int = 2
    energy: str = MEMORIES[0]


@dataclass(frozen=True, slots=True)
class Vector:
    """The vector unit. Its cycles are modelled (`cosil.machine.vector_unit`); no RTL exists yet.

    Attributes
    ----------
    lanes : int
        Lane operations per cycle.
    start_cycles : int
        Cycles before the first result of an operation.
    """

    lanes: int = 16
    start_cycles: int = 8


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine.

    Attributes
    ----------
    name : str
        Name in reports.
    clock_hz : float
        Clock of everything; only turns cycles into seconds.
    array : W4A8Spec
        Geometry and dataflow; the parameters in `VARIANT` only count where `fixed` names them.
    fixed : frozenset of str
        Parameters in `VARIANT` that the machine fixes. The others follow each layer: such a machine
        holds every variant that its networks use.
    technology : str
        Energy table of the engine.
    attention : AttentionSpec or None
        The attention engine, if there is one; its `head_dim` follows each layer.
    pim : PimSpec or None
        The PIM macro, if there is one; its `noise_bits`, which stands for physics, follows each
        layer.
    xnor : XnorSpec or None
        The XNOR array, if there is one; its `weights` and `epilogue` follow each layer: such a
        machine holds every variant that its networks use.
    """

    name: str
    clock_hz: float
    array: W4A8Spec
    memory: Memory = field(default_factory=Memory)
    vector: Vector = field(default_factory=Vector)
    fixed: frozenset[str] = frozenset()
    technology: str = TECHNOLOGIES[0]
    attention: AttentionSpec | None = None
    pim: PimSpec | None = None
    xnor: XnorSpec | None = None

    def attention_for(self, node: Node) -> AttentionSpec:
        """Return the attention engine as a node needs it: with its head_dim, and at most 16 lanes.

        Raises
        ------
        CosilError
            If the machine has none, or too few heads.
        """
        spec, heads, dim = self.attention, int(node.attrs["heads"]), int(node.attrs["head_dim"])
        if spec is None:
            raise CosilError(
                f"machine {self.name}: layer {node.name!r} needs an attention engine",
                "add a table [attention] to the machine, or use the preset w4a8-16x16-attention",
            )
        if heads > spec.max_heads:
            raise CosilError(
                f"machine {self.name}: layer {node.name!r} has {heads} heads, and the attention "
                f"engine's max_heads is {spec.max_heads}"
            )
        most = LANES_MAX * dim * (2 if spec.pool == "split" else 1)
        return replace(spec, head_dim=dim, multipliers=min(spec.multipliers, most))

    def spec_for(self, node: Node) -> W4A8Spec:
        """Return the array as a linear or conv2d node needs it.

        Raises
        ------
        CosilError
            If the node needs what the machine fixes otherwise.
        """
        weight = node.tensors["weight"]
        needed = {
            "scales": "group" if weight.params["group_size"] else "channel",
            "weight_encoding": str(weight.params["encoding"]),
            "epilogue": str(node.attrs["mode"]),
        }
        for name in VARIANT:
            if name in self.fixed and getattr(self.array, name) != needed[name]:
                raise CosilError(
                    f"machine {self.name}: layer {node.name!r} needs {name} = {needed[name]!r}, "
                    f"not {getattr(self.array, name)!r}",
                    f"leave {name} out of [engine] to let each layer choose",
                )
        return replace(self.array, **cast("dict[str, Any]", needed))


def load_machine(source: Path | str) -> Machine:
    """Read a machine from a TOML file, or by the name of a preset.

    Raises
    ------
    CosilError
        If the file is missing, is not TOML, or holds what no machine has.
    """
    path = Path(source)
    if not path.suffix and (PRESETS / f"{path.name}.toml").is_file():
        path = PRESETS / f"{path.name}.toml"
    if not path.is_file():
        known = ", ".join(presets())
        raise UnknownNameError(
            f"machine must be a TOML file or one of {known}, not {str(source)!r}"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CosilError(f"{path} is not TOML: {error}") from error
    try:
        return machine_from_dict(table, default_name=path.stem)
    except (TypeError, ValueError) as error:
        raise CosilError(f"{path}: {error}") from error


def presets() -> list[str]:
    """Return the names of the machines that come with cosil."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def machine_from_dict(table: Mapping[str, Any], *, default_name: str = "machine") -> Machine:
    """Build a machine from a TOML table; an unknown key names the known ones."""
    keys = ("name", "clock_hz", "technology", "engine", *FOLLOWS, "memory", "vector")
    _known("machine", table, keys)
    engine = _table(table, "engine")
    if engine.get("engine", "w4a8") != "w4a8":
        raise ValueError(f"[engine]: engine must be 'w4a8', not {engine['engine']!r}")
    memory, vector = _table(table, "memory"), _table(table, "vector")
    _known("[memory]", memory, ("bytes_per_cycle", "latency_cycles", "energy"))
    _known("[vector]", vector, ("lanes", "start_cycles"))
    technology = table.get("technology", TECHNOLOGIES[0])
    if technology not in TECHNOLOGIES:
        raise ValueError(f"technology must be one of {', '.join(TECHNOLOGIES)}, not {technology!r}")
    return Machine(
        name=str(table.get("name", default_name)),
        clock_hz=_number("clock_hz", table.get("clock_hz"), 1.0, 1e12),
        array=W4A8Spec.from_dict(dict(engine)),
        memory=_memory(memory),
        vector=Vector(
            _integer("[vector] lanes", vector.get("lanes", 16), 1, 65536),
            _integer("[vector] start_cycles", vector.get("start_cycles", 8), 0, 65536),
        ),
        fixed=frozenset(name for name in VARIANT if name in engine),
        technology=technology,
        attention=_engine(table, "attention", AttentionSpec),
        pim=_engine(table, "pim", PimSpec),
        xnor=_engine(table, "xnor", XnorSpec),
    )


def _engine(table: Mapping[str, Any], key: str, kind: type[E]) -> E | None:
    """Return the engine of a table, with what stands for the parameters that follow each layer."""
    if key not in table:
        return None
    named = _table(table, key)
    for name in FOLLOWS[key]:
        if name in named:
            raise ValueError(f"[{key}]: {name} follows each layer; leave it out")
    return kind.from_dict({**named, **FOLLOWS[key]})


def _memory(table: Mapping[str, Any]) -> Memory:
    energy = table.get("energy", MEMORIES[0])
    if energy not in MEMORIES:
        raise ValueError(f"[memory] energy must be one of {', '.join(MEMORIES)}, not {energy!r}")
    return Memory(
        _number("[memory] bytes_per_cycle", table.get("bytes_per_cycle", 0.0), 0.0, 1e9),
        _integer("[memory] latency_cycles", table.get("latency_cycles", 2), 1, 100_000),
        energy,
    )


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, Mapping):
        raise TypeError(f"{key} must be a table [{key}], not {value!r}")
    return cast("Mapping[str, Any]", value)


def _known(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; known are {', '.join(known)}")


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number in {low:g}..{high:g}, not {value!r}")
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} must be a number in {low:g}..{high:g}, not {value!r}")
    return float(value)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int in {low}..{high}, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be an int in {low}..{high}, not {value!r}")
    return value

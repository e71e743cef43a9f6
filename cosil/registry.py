# SPDX-License-Identifier: Apache-2.0
"""Which engines and methods exist, and where their faces live.

An explicit table of strings, resolved on use: reading it imports neither torch nor amaranth.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cosil.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class Engine:
    """The faces of one engine as ``module:object`` strings.

    Attributes
    ----------
    name : str
        The stem that all its files share.
    summary : str
        One line for `cosil engines`.
    spec, reference, simulator, rtl, bench, energy : str
        Entry points (docs/tutorial.md says what each must offer).
    """

    name: str
    summary: str
    spec: str
    reference: str
    simulator: str
    rtl: str
    bench: str
    energy: str

    def faces(self) -> dict[str, str]:
        """Return face name -> entry point, in the order of the engine table."""
        return {face: getattr(self, face) for face in FACES}

    def load(self, face: str) -> Any:
        """Import one face and return its entry object."""
        return resolve(self.faces()[_known("face", face, FACES)])


@dataclass(frozen=True, slots=True)
class Method:
    """One compression method.

    Attributes
    ----------
    name, summary : str
        As `cosil methods` prints them.
    function : str
        ``module:function``.
    formats : tuple of str
        Codecs that it packs into.
    engines : tuple of str
        Engines that run the result.
    """

    name: str
    summary: str
    function: str
    formats: tuple[str, ...]
    engines: tuple[str, ...]

    def load(self) -> Any:
        """Import the method and return its function."""
        return resolve(self.function)


FACES = ("spec", "reference", "simulator", "rtl", "bench", "energy")

ENGINES: Mapping[str, Engine] = MappingProxyType(
    {
        engine.name: engine
        for engine in (
            Engine(
                name="w4a8",
                summary="systolic int4 x int8 array, per-channel and per-group scales",
                spec="cosil.engines.w4a8:W4A8Spec",
                reference="algos.reference.w4a8:reference",
                simulator="sim.w4a8:run",
                rtl="rtl.w4a8:W4A8",
                bench="verif.w4a8",
                energy="energy_models.w4a8:MODEL",
            ),
            Engine(
                name="topk",
                summary="exact streaming top-k in input order: radix select, or quick-select",
                spec="cosil.engines.topk:TopkSpec",
                reference="algos.reference.topk:reference",
                simulator="sim.topk:run",
                rtl="rtl.topk:Topk",
                bench="verif.topk",
                energy="energy_models.topk:MODEL",
            ),
            Engine(
                name="attention",
                summary="sparse attention: cascade token and head pruning, value selection, "
                "key LSBs on demand",
                spec="cosil.engines.attention:AttentionSpec",
                reference="algos.reference.attention:reference",
                simulator="sim.attention:run",
                rtl="rtl.attention:Attention",
                bench="verif.attention",
                energy="energy_models.attention:MODEL",
            ),
            Engine(
                name="pim",
                summary="analog in-memory array behind low-resolution ADCs: three decompositions, "
                "transfer tables, noise",
                spec="cosil.engines.pim:PimSpec",
                reference="algos.reference.pim:reference",
                simulator="sim.pim:run",
                rtl="rtl.pim:Pim",
                bench="verif.pim",
                energy="energy_models.pim:MODEL",
            ),
            Engine(
                name="xnor",
                summary="binary and ternary matrix-vector array folded over outputs and inputs: "
                "exact thresholds, pooling, zero padding",
                spec="cosil.engines.xnor:XnorSpec",
                reference="algos.reference.xnor:reference",
                simulator="sim.xnor:run",
                rtl="rtl.xnor:Xnor",
                bench="verif.xnor",
                energy="energy_models.xnor:MODEL",
            ),
        )
    }
)

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method(
                name="rtn",
                summary="round to nearest, the baseline",
                function="algos.rtn:compress",
                formats=("int4 per channel", "int4 per group"),
                engines=("w4a8",),
            ),
            Method(
                name="qqq",
                summary="smoothing, rotation and Hessian compensation (arXiv 2406.09904)",
                function="algos.qqq:compress",
                formats=("int4 per channel", "int4 per group"),
                engines=("w4a8",),
            ),
            Method(
                name="distil",
                summary="QQQ, then training against the float network (language models)",
                function="algos.distil:compress",
                formats=("int4 per channel", "int4 per group"),
                engines=("w4a8",),
            ),
            Method(
                name="spatten",
                summary="cascade token and head pruning, value pruning, key LSBs on demand "
                "(arXiv 2012.09852)",
                function="algos.spatten:compress",
                formats=("int4 per channel", "int4 per group", "attention program"),
                engines=("w4a8", "attention"),
            ),
            Method(
                name="pim_qat",
                summary="training for analog arrays behind low-resolution ADCs (arXiv 2209.08617)",
                function="algos.pim_qat:compress",
                formats=("bitplane", "int4 per channel"),
                engines=("w4a8", "pim"),
            ),
            Method(
                name="binary",
                summary="training of binary and ternary networks by a choice of binarisers",
                function="algos.binary:compress",
                formats=("binary", "ternary", "int4 per channel"),
                engines=("w4a8", "xnor"),
            ),
        )
    }
)


def engine(name: str) -> Engine:
    """Return the engine of that name.

    Raises
    ------
    UnknownNameError
        If there is none; the message lists the known names and the nearest.
    """
    return ENGINES[_known("engine", name, ENGINES)]


def method(name: str) -> Method:
    """Return the compression method of that name.

    Raises
    ------
    UnknownNameError
        If there is none; the message lists the known names and the nearest.
    """
    return METHODS[_known("method", name, METHODS)]


def engine_of(spec: object) -> Engine:
    """Return the engine whose spec an object is.

    Raises
    ------
    TypeError
        If it is no engine's.
    """
    entry = f"{type(spec).__module__}:{type(spec).__qualname__}"
    for engine in ENGINES.values():
        if engine.spec == entry:
            return engine
    raise TypeError(f"spec must be an engine's, not {spec!r}")


def spec_from_table(table: Mapping[str, Any]) -> Any:
    """Build the spec that a TOML table describes; its key ``engine`` says which.

    Raises
    ------
    UnknownNameError
        If the key is missing or names no engine.
    """
    if "engine" not in table:
        raise UnknownNameError(
            f"the spec names no engine; known are {', '.join(ENGINES)}",
            'the first line of a spec file is, for example, engine = "w4a8"',
        )
    return engine(table["engine"]).load("spec").from_dict(dict(table))


def resolve(entry: str) -> Any:
    """Import ``module`` or ``module:object`` and return it."""
    module, _, attribute = entry.partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded


def _known(kind: str, name: object, known: Iterable[str]) -> str:
    names = list(known)
    if isinstance(name, str) and name in names:
        return name
    near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.5)
    raise UnknownNameError(
        f"unknown {kind} {name!r}; known are {', '.join(names)}",
        f"did you mean {near[0]}?" if near else "",
    )

# SPDX-License-Identifier: Apache-2.0
"""The attention engine's part of its package: streams, commands, vectors of the smoke test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cosil.engines.attention import CODE_BITS, OUTPUT_BITS, AttentionSpec
from cosil.lowering.attention import (
    LSB_ALWAYS,
    LSB_NEVER,
    Command,
    Operands,
    ResetCommand,
    RowCommand,
    TokensCommand,
)
from cosil.synth.parts import EngineParts, numbered
from sim.attention import run
from verif.attention.cases import (
    ADDRESS_BITS,
    ID_BITS,
    command_word,
    image,
    kept_beats,
    output_beats,
    query_word,
    requested,
    requests,
)

_MEMORY_LATENCY = 2

_COMMAND_WORDS = (
    ("op", "bits 0..3: 0 row, 1 tokens, 2 heads, 3 reset; a row: 4 importance, 8..15 code bits"),
    ("tag", "row: comes back with its output. Tokens, reset: tokens of the pass. Heads: heads"),
    ("n", "row: keys, the first n of the list. Tokens, heads: how many to keep"),
    ("values", "row: values to keep, 0..n. Tokens: so many of the last tokens are kept anyway"),
    ("key_msb", "row of token 0 in the memory of key MSBs"),
    ("key_lsb", "row of token 0 in the memory of key LSBs"),
    ("value", "row of token 0 in the memory of values"),
    ("head", "whose importance the output adds to"),
    ("distance", "bits 0..15 mult, 16..21 shift, of the distance to the largest score"),
    ("lsb_rule", "bits 0..11 and 16..27: LSBs are fetched where the logarithm lies between"),
    ("output", "bits 0..15 mult, 16..21 shift, of the output"),
    *((f"reserved{number}", "0") for number in range(5)),
)  # fmt: skip


def _describe(spec: AttentionSpec) -> str:
    return f"""\
Attention of one query of one head after the other over at most {spec.max_tokens} tokens and
{spec.max_heads} heads of {spec.head_dim} columns: {spec.multipliers} multipliers (`{spec.pool}`),
{spec.lanes} keys a beat, selectors `{spec.topk}`. The engine has no registers: a command is one
beat of `s_axis_cmd`; the first one has to be a reset that clears all. Rows overlap, the other
commands wait until no row is in flight. Memory ports carry codes of 8 bits: what lies above a
narrower code does not matter, and a DMA has to unpack it."""


def _streams(spec: AttentionSpec) -> dict[str, str]:
    lanes, columns = spec.lanes, spec.out_lanes
    addresses = lanes * ADDRESS_BITS
    asked = f"{lanes} row addresses of 32 bits, the first low; which are asked for "
    asked += f"[{addresses + lanes - 1}:{addresses}]"
    rows = f"{lanes} rows of {spec.head_dim} codes of 8 bits, in the order of requests"
    ids = lanes * ID_BITS
    return {
        "cmd": "command, 16 words",
        "q": f"query of each row command: {spec.head_dim} codes of 12 bits",
        "k_req": f"{asked}; plane [{addresses + lanes}], 1 for LSBs",
        "k": f"keys: {rows}",
        "v_req": asked,
        "v": f"values: {rows}",
        "e": f"output: tag [31:0], {columns} columns of 16 bits [{31 + 16 * columns}:32]; "
        "tlast ends a row",
        "kept": f"what tokens and heads keep: {lanes} ids of 16 bits, which lanes hold one "
        f"[{ids + lanes - 1}:{ids}]; tlast ends a command",
    }


def _defines(spec: AttentionSpec) -> dict[str, int]:
    names = ("head_dim", "lanes", "max_tokens", "max_heads", "out_lanes", "out_beats")
    return {name: getattr(spec, name) for name in names}


def smoke_vectors(spec: AttentionSpec, seed: int = 1) -> dict[str, Any]:
    """Return a reset, a row that keeps all values, one with LSBs that keeps one, and a selection.

    Keys fill two beats, the second in part.
    """
    rng = np.random.default_rng(seed)
    n = min(spec.max_tokens, spec.lanes + 1)
    shape = (n, spec.head_dim)
    operands = Operands(
        rng.integers(-2048, 2048, (2, spec.head_dim)).astype(np.int16),
        rng.integers(-128, 128, shape).astype(np.int8),
        rng.integers(0, 16, shape).astype(np.uint8),
        rng.integers(-128, 128, shape).astype(np.int8),
    )
    rows = [
        RowCommand(
            n=n, values=values, key_msb=0, key_lsb=0, value=0, head=0, mult=1 << 15, shift=28,
            out_mult=1 << 15, out_shift=28, lsb_low=rule[0], lsb_high=rule[1], tag=tag,
        )
        for tag, values, rule in ((1, n, LSB_NEVER), (2, 1, LSB_ALWAYS))
    ]  # fmt: skip
    commands: list[Command] = [ResetCommand(n), *rows, TokensCommand(n, max(1, n - 1))]
    result = run(spec, commands, operands, memory_latency=_MEMORY_LATENCY, step=True)
    everything = list(range(n))
    keys = [*requests(spec, 0, everything) * 2, *requests(spec, 0, everything, plane=1)]
    scores = (operands.key_msb.astype(np.int64) * 16 + operands.key_lsb) @ operands.query[1]
    values = [*requests(spec, 0, everything), *requests(spec, 0, [int(scores.argmax())])]
    msb, lsb, value = (
        image(codes) for codes in (operands.key_msb, operands.key_lsb, operands.value)
    )
    planes = [msb] * (len(keys) - len(keys) // 3) + [lsb] * (len(keys) // 3)
    outputs = [
        beat
        for row, y in zip(rows, result.y, strict=True)
        for beat in output_beats(spec, row.tag, y.tolist())
    ]
    e_bits = 32 + spec.out_lanes * OUTPUT_BITS
    return {
        "memory_latency": _MEMORY_LATENCY,
        "cycles": result.cycles,
        "inputs": {
            "cmd": [command_word(command) for command in commands],
            "q": [query_word(query) for query in operands.query],
        },
        "exchanges": {
            "k": _exchange(spec, keys, planes),
            "v": _exchange(spec, values, [value] * len(values)),
        },
        "outputs": {
            "e": numbered(outputs, e_bits),
            "kept": numbered(kept_beats(spec, result.kept[0].tolist()), spec.lanes * (ID_BITS + 1)),
        },
    }


def _exchange(
    spec: AttentionSpec, asked: Sequence[int], images: Sequence[Sequence[int]]
) -> dict[str, list[int]]:
    """Return requests and what the memory answers; 0 in lanes that ask for nothing."""
    bits = CODE_BITS * spec.head_dim
    responses = [
        sum(
            0 if row is None else memory[row] << lane * bits
            for lane, row in enumerate(requested(spec.lanes, request))
        )
        for request, memory in zip(asked, images, strict=True)
    ]
    return {"requests": list(asked), "responses": responses}


PARTS = EngineParts(
    title="sparse attention engine",
    job_words=_COMMAND_WORDS,
    describe=_describe,
    streams=_streams,
    defines=_defines,
    vectors=smoke_vectors,
    job_stream="cmd",
)

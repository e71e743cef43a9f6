# SPDX-License-Identifier: Apache-2.0
"""Random commands for the attention bench: sizes, rules, widths, ties, extreme codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cosil.engines.attention import CODE_WIDTHS, AttentionSpec
from cosil.lowering.attention import (
    LSB_ALWAYS,
    LSB_NEVER,
    Command,
    HeadsCommand,
    Operands,
    ResetCommand,
    RowCommand,
    TokensCommand,
)
from verif.attention.cases import STREAMS, Case
from verif.lib.generate import break_each, random_stalls

STYLES = ("uniform", "few", "equal", "extreme", "small")
LATENCIES = (1, 2, 3, 7, 20)


def random_case(spec: AttentionSpec, seed: int, *, commands: int | None = None) -> Case:
    """Return the case of a seed: four to twelve commands, stalls on all, one or no stream."""
    rng = np.random.default_rng([seed, spec.lanes, spec.head_dim])
    kind, stalls = random_stalls(rng, seed, STREAMS)
    program = random_commands(spec, rng, commands or int(rng.integers(4, 13)))
    rows = sum(isinstance(command, RowCommand) for command in program)
    return Case(
        name=f"seed {seed}, {kind} stalls",
        jobs=program,
        stalls=stalls,
        operands=random_operands(spec, rng, rows),
        latency=int(rng.choice(LATENCIES)),
        padding=int(rng.integers(1 << 31)),
    )


def mutant_cases(spec: AttentionSpec, streams: list[str], seed: int = 1) -> list[Case]:
    """Return every mutant on every stream, each on two rows between selections.

    Nothing stalls, so a cycle lost on any stream is a cycle of the whole. Where the first reset is
    lost, the first selection shows it: the importance of all tokens is what the case before left.
    """

    def whole(number: int, stream: str) -> Case:
        rng = np.random.default_rng([seed, number])
        tokens = spec.max_tokens
        half = tokens // 2
        row = replace(
            _row(spec, rng, half), n=half, values=half, mult=1 << 15, shift=27, out_mult=1 << 15,
            out_shift=28, msb_bits=8, value_bits=8, key_msb=1, key_lsb=2, value=3,
        )  # fmt: skip
        program = [
            ResetCommand(tokens),
            TokensCommand(tokens, half),
            replace(row, lsb_low=LSB_NEVER[0], lsb_high=LSB_NEVER[1], add_importance=False),
            ResetCommand(tokens, clear_tokens=False, clear_heads=False),
            replace(
                row, n=tokens, lsb_low=LSB_ALWAYS[0], lsb_high=LSB_ALWAYS[1], add_importance=True
            ),
            TokensCommand(tokens, half // 2),
        ]
        operands = random_operands(spec, rng, 2, "uniform")
        return Case(stream, program, operands=operands, padding=number)

    return break_each(streams, whole)


def random_commands(spec: AttentionSpec, rng: np.random.Generator, count: int) -> list[Command]:
    """Return a reset and so many further commands, the last of them no reset."""
    tokens = spec.max_tokens
    total = int(rng.choice([1, tokens, int(rng.integers(1, tokens + 1))], p=[0.1, 0.5, 0.4]))
    program: list[Command] = [ResetCommand(total)]
    listed = total
    for number in range(count):
        what = str(rng.choice(["row", "tokens", "heads", "reset"], p=[0.7, 0.13, 0.1, 0.07]))
        if what == "tokens":
            # The tokens of the pass, as it should be, or others, which the engine admits.
            pool = total if rng.integers(4) else int(rng.integers(1, tokens + 1))
            listed = int(rng.integers(1, min(listed, pool) + 1))
            recent = int(rng.choice([0, 0, 1, listed, int(rng.integers(0, listed + 1))]))
            program.append(TokensCommand(pool, listed, recent))
        elif what == "heads":
            heads = int(rng.integers(1, spec.max_heads + 1))
            program.append(HeadsCommand(heads, int(rng.integers(1, heads + 1))))
        elif what == "reset" and number + 1 < count:
            total = listed = int(rng.integers(1, tokens + 1))
            program.append(ResetCommand(total, bool(rng.integers(2)), bool(rng.integers(2))))
        else:
            program.append(_row(spec, rng, listed))
    return program


def _row(spec: AttentionSpec, rng: np.random.Generator, listed: int) -> RowCommand:
    """Return a row of at most `listed` keys."""
    lanes = spec.lanes
    sizes = (1, lanes - 1, lanes, lanes + 1, 2 * lanes, listed - 1, listed, listed)
    sizes = (*sizes, int(rng.integers(1, listed + 1)))
    n = int(rng.choice([size for size in sizes if 1 <= size <= listed]))
    counts = (0, 1, lanes, lanes + 1, n // 2, n - 1, n, n, int(rng.integers(0, n + 1)))
    values = int(rng.choice([count for count in counts if 0 <= count <= n]))
    middle = int(rng.integers(0, 1500))
    rules = [LSB_NEVER, LSB_ALWAYS, (middle, 4095), (0, middle), (middle, middle + 300)]
    lsb_low, lsb_high = rules[int(rng.choice(5, p=[0.35, 0.2, 0.15, 0.15, 0.15]))]
    mult, shift = int(rng.integers(1 << 14, 1 << 16)), int(rng.integers(20, 33))
    out_mult, out_shift = int(rng.integers(1 << 14, 1 << 16)), int(rng.integers(26, 36))
    if rng.integers(8) == 0:
        mult, shift = int(rng.choice([0, 1, 65535])), int(rng.choice([0, 1, 47]))
    if rng.integers(8) == 0:
        out_mult, out_shift = int(rng.choice([0, 1, 65535])), int(rng.choice([0, 1, 63]))
    # Past the memory's end, and around the end of the address space, too.
    bases = [*rng.integers(0, 2 * spec.max_tokens, 3), (1 << 32) - 3, 3 * spec.max_tokens]
    picked = rng.choice(len(bases), 3, p=[0.3, 0.3, 0.3, 0.07, 0.03])
    key_msb, key_lsb, value = (int(bases[index]) for index in picked)
    return RowCommand(
        n=n,
        values=values,
        key_msb=key_msb,
        key_lsb=key_lsb,
        value=value,
        head=int(rng.integers(spec.max_heads)),
        mult=mult,
        shift=shift,
        out_mult=out_mult,
        out_shift=out_shift,
        lsb_low=lsb_low,
        lsb_high=lsb_high,
        msb_bits=int(rng.choice(CODE_WIDTHS)),
        value_bits=int(rng.choice(CODE_WIDTHS)),
        add_importance=bool(rng.integers(4)),
        tag=int(rng.integers(1 << 32)),
    )


def random_operands(
    spec: AttentionSpec, rng: np.random.Generator, rows: int, style: str | None = None
) -> Operands:
    """Return queries and memories of three times `max_tokens` rows.

    Bits of stored codes above those that a command takes are anything.

    Parameters
    ----------
    spec : AttentionSpec
    rng : Generator
    rows : int
        Row commands.
    style : {"uniform", "few", "equal", "extreme", "small"}, optional
        All codes alike; keys that are one of three, so that scores tie; all keys equal; the ends of
        all ranges; queries near 0, so that rows are flat. Without it any.
    """
    style = style or str(rng.choice(STYLES))
    shape = (3 * spec.max_tokens, spec.head_dim)
    query = rng.integers(-2048, 2048, (rows, spec.head_dim)).astype(np.int16)
    key_msb = rng.integers(-128, 128, shape).astype(np.int8)
    key_lsb = rng.integers(0, 256, shape).astype(np.uint8)
    value = rng.integers(-128, 128, shape).astype(np.int8)
    if style == "few":
        pick = rng.integers(0, 3, shape[0])
        key_msb, key_lsb = key_msb[pick], key_lsb[pick]
    elif style == "equal":
        key_msb[:], key_lsb[:] = key_msb[0], key_lsb[0]
    elif style == "extreme":
        query = _ends(rng, query.shape, [-2048, 2047]).astype(np.int16)
        key_msb = _ends(rng, shape, [-128, 127]).astype(np.int8)
        key_lsb = _ends(rng, shape, [0, 15]).astype(np.uint8)
        value = _ends(rng, shape, [-128, 127]).astype(np.int8)
    elif style == "small":
        query = rng.integers(-3, 4, query.shape).astype(np.int16)
    return Operands(query, key_msb, key_lsb, value)


def _ends(rng: np.random.Generator, shape: tuple[int, ...], ends: list[int]) -> NDArray[np.int64]:
    """Return rows that are one end, the other, or either by element."""
    rows = rng.choice(ends, (shape[0], 1)) + np.zeros(shape, dtype=np.int64)
    return np.where(rng.integers(3, size=(shape[0], 1)) > 0, rows, rng.choice(ends, shape))

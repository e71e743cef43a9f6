# SPDX-License-Identifier: Apache-2.0
"""Random jobs for the PIM bench: awkward shapes, corner operands, and what stays from before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cosil.engines.pim import PimSpec
from cosil.lowering.pim import (
    FLAG_NOISE,
    FLAG_RELU,
    FLAG_TRANSFER,
    FLAG_WEIGHTS,
    FLAG_WIDE,
    Job,
    Operands,
)
from cosil.packed.generators import xorshift32_step
from verif.lib.generate import break_each, random_stalls
from verif.lib.mutants import Mutant
from verif.pim import operands as make
from verif.pim.cases import STREAMS, Case

CYCLES = 900
"""Bound on the cycles that a job's conversions take: it sets the time that a case takes."""

_LOADS = {"w": FLAG_WEIGHTS, "t": FLAG_TRANSFER, "n": FLAG_NOISE}


class Contents:
    """A macro, as jobs one after the other leave it, and jobs that suit it.

    Parameters
    ----------
    spec : PimSpec
    rng : Generator
        Source of everything.
    """

    def __init__(self, spec: PimSpec, rng: np.random.Generator) -> None:
        self._spec, self._rng = spec, rng
        # What was never loaded is not 0 in the hardware, so no job may look at it.
        self._loaded: Job | None = None
        self._cells = np.zeros(
            (spec.outputs, spec.bit_planes, spec.groups, spec.row_words), dtype=np.uint64
        )
        self._transfer = np.zeros((spec.columns, spec.entries), dtype=np.int16)
        self._noise = np.zeros(spec.noise_entries, dtype=np.int16)
        self._states = np.zeros(spec.adcs if spec.noise_bits else 0, dtype=np.uint32)

    def random_job(self) -> tuple[Job, Operands]:
        """Return a job of random shape and styles; the first loads everything, others may not."""
        rng = self._rng
        loads = [name for name in "wtn" if self._loaded is None or rng.integers(2)]
        return self._job(loads, *self._shape("w" in loads))

    def probe(self) -> tuple[Job, Operands]:
        """Return a job on all ADCs that shows the generators' states as they are."""
        spec = self._spec
        rows = min(spec.rows, 3)
        m = -(-24 // (spec.slices * spec.mux))
        return self._job(["w", "t"], m, rows, spec.outputs, rows, probe=True)

    def _shape(self, load_weights: bool) -> tuple[int, int, int, int]:
        """Return m, k, n and rows; within what the last weights filled, if none are loaded."""
        spec, rng, old = self._spec, self._rng, self._loaded
        if load_weights or old is None:
            rows_max, groups_max, n_max = spec.rows, spec.groups, spec.outputs
        else:
            rows_max, groups_max, n_max = old.rows, old.groups, old.n
        rows = make.pick(rng, (1, 2, 63, 64, 65, rows_max - 1, rows_max, rows_max), rows_max)
        k_max = rows * groups_max
        any_k = int(rng.integers(1, k_max + 1))
        k = make.pick(rng, (1, rows, rows + 1, 2 * rows, k_max - 1, k_max, k_max, any_k), k_max)
        lanes = spec.epilogue_lanes
        n = make.pick(rng, (1, lanes, lanes + 1, n_max - 1, n_max, n_max), n_max)
        m_max = max(1, CYCLES // (spec.steps(k, rows) * spec.period))
        m = make.pick(rng, (1, 2, 3, 4, 5, 8, 13, 21), min(m_max, 2000 // n))
        return m, k, n, rows

    def _job(
        self, loads: list[str], m: int, k: int, n: int, rows: int, *, probe: bool = False
    ) -> tuple[Job, Operands]:
        spec, rng = self._spec, self._rng
        if not spec.noise_bits:
            loads = [name for name in loads if name != "n"]
        flags = sum(_LOADS[name] for name in loads)
        flags |= FLAG_WIDE if probe else int(rng.integers(4)) * FLAG_RELU
        job = Job(m, k, n, rows, flags)
        groups, words = job.groups, -(-rows // 64)
        if "w" in loads:
            self._cells[:n, :, :groups, :words] = make.cells(spec, rng, job, dense=probe)
            self._loaded = job
        if "t" in loads:
            self._transfer = make.transfer(spec, rng, rows, "random" if probe else None)
        if "n" in loads:
            self._noise = make.noise(spec, rng)
            self._states = make.states(spec, rng)
        operands = Operands(
            x=make.codes(spec, rng, m, k),
            w=self._cells[:n, :, :groups, :words].copy(),
            transfer=self._transfer,
            noise=self._noise,
            states=self._states,
            e=make.parameters(spec, rng, job, corners=not probe),
        )
        draws = m * spec.steps(k, rows) * spec.mux
        self._states = make.advanced(self._states, draws)
        return job, operands


def random_case(spec: PimSpec, seed: int, *, jobs: int | None = None) -> Case:
    """Return the case of a seed: one to three jobs in a row, stalls on all, one or no stream.

    With noise hardware one more job follows that takes the generators as they are, so that its
    results show what the others left in them.
    """
    rng = np.random.default_rng([seed, spec.rows, spec.columns])
    kind, stalls = random_stalls(rng, seed, STREAMS)
    macro = Contents(spec, rng)
    chain = [macro.random_job() for _ in range(jobs or int(rng.choice([1, 1, 2, 3])))]
    if spec.noise_bits:
        chain.append(macro.probe())
    return Case(
        name=f"seed {seed}, {kind} stalls",
        jobs=chain,
        stalls=stalls,
        padding=int(rng.integers(1 << 31)),
    )


# -- broken hardware -------------------------------------------------------------------------------


def mutant_cases(spec: PimSpec, streams: list[str], seed: int = 1) -> list[Case]:
    """Return every mutant on every stream, each on a job that the unbroken macro does right.

    The stall pattern makes the broken stream the one that the job waits for, so that a cycle lost
    on it is a cycle of the job. After these, which break first beats, the bits of later ones are
    flipped: of the last cell, of a table's last position, of a noise entry, of a generator.
    """

    def whole(number: int, stream: str) -> Case:
        rng = np.random.default_rng([seed, number])
        return Case(stream, [sensitive_job(spec, rng)], _critical(spec, stream), padding=number)

    cases = break_each(streams, whole)
    job, operands = sensitive_job(spec, np.random.default_rng([seed, len(cases)]))
    for stream, beat in _later_beats(spec, job, operands):
        case = Case(f"flipped_bit on {stream}, beat {beat}", [(job, operands)])
        cases.append(
            replace(case, mutant=Mutant.FLIPPED_BIT, mutant_stream=stream, mutant_beat=beat)
        )
    return cases


def flipped_bits(spec: PimSpec) -> dict[str, int]:
    """Return the bit of each stream that mutants invert.

    relu; the cell of the first row; the top bit of that row's code, of a transfer and of a noise
    entry; the highest bit of a bias under its sign; the lowest bit of a result.
    """
    top = _top_bit(spec)
    return {
        "i_job": 4 * 32 + FLAG_RELU.bit_length() - 1, "i_w": 0, "i_t": top, "i_n": top, "i_e": 30,
        "i_x": spec.activation_bits - 1, "o_y": 0,
    }  # fmt: skip


def _later_beats(spec: PimSpec, job: Job, operands: Operands) -> list[tuple[str, int]]:
    """Return beats whose flipped bit the results of a `sensitive_job` tell."""
    loads = spec.load_beats(job.k, job.n, job.rows)
    outputs = job.m * -(-job.n // spec.epilogue_lanes)
    beats = [
        ("i_w", loads["w"] - 1),
        ("i_t", (spec.mux - 1) * spec.entries - spec.value_min),
        ("i_e", loads["e"] - 1),
        ("i_x", job.m * job.groups - 1),
        ("o_y", outputs - 1),
    ]
    if spec.noise_bits:
        adc = _last_adc(spec)
        beats.append(("i_n", _first_entry(spec, operands.states[adc])))
        beats.append(("i_n", spec.noise_entries + adc))
    return [(stream, beat) for stream, beat in beats if beat]


def _last_adc(spec: PimSpec) -> int:
    """Return the last ADC with columns that outputs use."""
    return (spec.outputs * spec.planes - 1) // spec.mux


def _first_entry(spec: PimSpec, state: np.uint32) -> int:
    """Return the noise entry that a generator selects first."""
    return xorshift32_step(int(state)) >> (32 - spec.noise_bits)


def _top_bit(spec: PimSpec) -> int:
    """Return the bit of a transfer entry that is the highest of a code."""
    return 3 + spec.code_max.bit_length()


def _critical(spec: PimSpec, stream: str) -> dict[str, NDArray[np.bool_]]:
    """Return a pattern that offers a stream's first beat later than the last of all others."""
    if stream in ("i_job", "o_y"):
        return {}
    most = max(spec.load_beats(spec.rows * spec.groups, spec.outputs).values())
    late = np.zeros(1 << 15, dtype=np.bool_)
    late[: most + 8] = True
    return {stream[2:]: late}


def sensitive_job(spec: PimSpec, rng: np.random.Generator) -> tuple[Job, Operands]:
    """Return a job that loads everything and whose results tell each of `flipped_bits`.

    Vector 0 is all zeros and vector 1 all largest codes, output 0 has one weight, the one that
    makes the least value of a column with one of these vectors; that value, and 0, have a code far
    from the largest one. The first draw of ADC 0 selects noise entry 0, which is 0, and so is the
    first one of the last ADC.
    """
    groups = min(2, spec.groups)
    flags = FLAG_WEIGHTS | FLAG_TRANSFER | FLAG_WIDE | (FLAG_NOISE if spec.noise_bits else 0)
    # Enough conversions of each ADC that other noise changes one of them.
    m = max(4, 128 // (groups * spec.slices * spec.mux))
    job = Job(m, spec.rows * groups, spec.outputs, spec.rows, flags)
    most = (1 << (spec.weight_bits - 1)) - 1
    weights = make.weights(spec, rng, job)
    weights[0] = {"bit_serial": -1, "differential": most, "native": -most - 1}[spec.decomposition]
    x = make.codes(spec, rng, job.m, job.k)
    x[0], x[1] = 0, (1 << spec.activation_bits) - 1
    transfer = make.transfer(spec, rng, spec.rows, "random")
    transfer[:, [0, -spec.value_min]] = 16 if spec.code_max > 1 else 0
    noise, states = make.noise(spec, rng, "small"), make.states(spec, rng)
    if spec.noise_bits:
        while _first_entry(spec, states[0]):
            states[0] = rng.integers(1, 1 << 32)
        noise[[0, _first_entry(spec, states[_last_adc(spec)])]] = 0
    # Results are sums, as far as 16 bits hold them; those of every second output are negative.
    excess = max(0, make.largest_sum(spec, job).bit_length() - 15)
    e = np.full(job.n, 1 << 44 | (16 + excess) << 48, dtype=np.uint64)
    e[::2] |= np.uint64(1 << 54)
    return job, Operands(
        x=x, w=make.packed_weights(spec, job, weights), transfer=transfer, noise=noise,
        states=states, e=e,
    )  # fmt: skip

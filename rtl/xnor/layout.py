# SPDX-License-Identifier: Apache-2.0
"""Layouts that the parts of the XNOR array pass to each other."""

from __future__ import annotations

from dataclasses import fields

from amaranth.hdl import signed
from amaranth.lib import data

from cosil.engines.xnor import XnorSpec
from cosil.lowering.xnor import Job
from cosil.packed.ops import XNOR_POOL_MAX

JOB = data.StructLayout({**{field.name: 32 for field in fields(Job)}, "reserved": 2 * 32})
"""Job descriptor, word 0 in the low bits (docs/engines/xnor.md, section 4)."""

TAG = data.StructLayout(
    {
        "valid": 1,
        "first": 1,
        "last": 1,
        "fresh": 1,
        "final": 1,
        "opens": 1,
        "closes": 1,
        "end": 1,
    }
)
"""What travels with a step: that there is one; whether it is the first or last one of its output
fold; whether that fold is the first or last one of its vector; whether the vector is the first or
last one of its pool window; whether the step is the last one of its job."""


def job_layout(spec: XnorSpec) -> data.StructLayout:
    """Return a job as the parts take it, in the widths that legal values need."""
    threshold = spec.epilogue == "threshold"
    return data.StructLayout(
        {
            "m": 32,
            "k": spec.max_inputs.bit_length(),
            "n": spec.max_outputs.bit_length(),
            "classes": spec.border_classes.bit_length(),
            **({"pool": XNOR_POOL_MAX.bit_length()} if threshold else {"relu": 1, "wide": 1}),
        }
    )


def weights_layout(spec: XnorSpec) -> data.StructLayout:
    """Payload of `i_w`: a tile, the inputs of output 0 low."""
    planes = ("signs", "nonzero")[: spec.weight_planes]
    return data.StructLayout({plane: data.ArrayLayout(spec.simd, spec.pe) for plane in planes})


def inputs_layout(spec: XnorSpec) -> data.StructLayout:
    """Payload of `i_x`: activation bits, and the class of their vector."""
    return data.StructLayout({"bits": spec.simd, "border": 8})


def border_bits(spec: XnorSpec) -> int:
    """Return the bits of a class; 0 where there is one."""
    return (spec.border_classes - 1).bit_length()


def base_bits(spec: XnorSpec) -> int:
    """Return the bits of a base value, unsigned."""
    return spec.sum_bits - 1


def sums_layout(spec: XnorSpec) -> data.ArrayLayout:
    """Return the sums s of the outputs of a fold."""
    return data.ArrayLayout(signed(spec.sum_bits), spec.pe)


def results_layout(spec: XnorSpec) -> data.StructLayout:
    """Payload of `o_y`: P results, a keep bit each, and whether it is the last beat."""
    lanes = spec.pe if spec.epilogue == "threshold" else data.ArrayLayout(16, spec.pe)
    return data.StructLayout({"data": lanes, "keep": spec.pe, "last": 1})


def events_layout(spec: XnorSpec) -> data.StructLayout:
    """Payload of `o_events`: what happens in the cycle in which it shows (sections 5 and 6).

    Levels
        `load`: a job is taken or not loaded (t <= L); `starved`: a step remains, and the next one
        waits for a beat; `remain`: steps remain.
    Strobes
        `issue` of a step; `take`: with it, a beat leaves the queue and is kept; `base`, `column`:
        a word of base values, of column parameters is read.
    Amounts
        `inputs`: lanes below K of the step that is issued; `accumulates`: outputs of the job whose
        accumulators are written; `results`: those whose sum shows. 0 in other cycles.
    """
    lanes = range(spec.pe + 1)
    return data.StructLayout(
        {
            "load": 1,
            "starved": 1,
            "remain": 1,
            "issue": 1,
            "take": 1,
            "base": 1,
            "column": 1,
            "inputs": range(spec.simd + 1),
            "accumulates": lanes,
            "results": lanes,
        }
    )

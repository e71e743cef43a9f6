# SPDX-License-Identifier: Apache-2.0
"""PIM-QAT: training of networks for analog arrays behind low-resolution ADCs.

Source: Jin, Chen, Ren, Li, Wang, Yang, "PIM-QAT: Neural Network Quantization for
Processing-In-Memory (PIM) Systems", arXiv 2209.08617. Only its abstract is public here. It names
the parts: PIM quantisation aware training, rescaling in backward and forward pass from an analysis
of training dynamics, batch norm calibration, adjusted precision training; three decompositions; and
that chips have non-linear, noisy conversions. What each part is here:

====================  ============================================================================
weights               read in AdaBits, public code of the same author: DoReFa's tanh, SAT's scale
                      adjustment. Assumed: the symmetric signed grid.
activations           PACT's clip with SAT's gradient. Assumed: unsigned, at the input of the array
                      alone, so that shortcuts keep the int8 range.
conversion            docs/engines/pim.md, section 1. Assumed: the full-scale grid B.
gradient              derived: passed straight through each conversion, the gradients of slices,
                      planes and groups add up to that of the digital layer, in all decompositions.
backward rescaling    form assumed: xi = sigma(y_PIM) / sigma(y), by batch and layer. Derived: a
                      batch norm divides the gradient by sigma(y_PIM); with xi it passes a layer as
                      it would pass the digital one.
forward rescaling     the paper's table is not known. Here eta = sigma(y) / sigma(y_PIM), measured
                      once a layer, so that sums keep the digital scale. Derived: the gradient
                      passed straight through does not hold eta, so that before a batch norm eta
                      does what xi does, as of the start; with both, xi is what has changed since.
BN calibration        name read, form assumed: running statistics measured again through the chip.
adjusted precision    name read, form assumed: training with other ADC bits than the chip has.
errors of a chip      gain, offset, INL of each column and noise, as tables: assumed curves
                      (`cosil.lowering.pim_transfer.synthetic`).
====================  ============================================================================

Other than in the paper, as far as is known: training starts from the float network and follows its
output distribution (no labels), for some hundred steps instead of 200 epochs.

First and last layer stay digital, on engine `w4a8` with 4-bit weights and int8 activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from algos.lib.calibrate import mode_of
from algos.lib.graph import FloatGraph
from algos.lib.provenance import provenance_of
from algos.lib.qat.start import start
from algos.lib.qat.training import Schedule, calibrate_norms, train
from algos.lib.threads import one_thread
from algos.pim_qat.emission import packed
from algos.pim_qat.macro import put_arrays
from algos.pim_qat.settings import PimQatSettings
from algos.pim_qat.student import Student
from cosil.packed.network import PackedNetwork

__all__ = ["SETTINGS", "PimQatSettings", "compress", "deployed", "trained"]

SETTINGS = PimQatSettings

NORM_SAMPLES = 1024
"""Inputs, at most, of BN calibration."""


def compress(
    graph: FloatGraph, calibration: Sequence[Tensor], settings: PimQatSettings | None = None
) -> PackedNetwork:
    """Train a network for arrays and pack it.

    Parameters
    ----------
    graph : FloatGraph
        A network of mode fixed: convolutions, linear layers, ReLU.
    calibration : sequence of Tensor
        Batches of inputs: the training data. Labels are not needed.
    settings : PimQatSettings, optional
        Hyper-parameters.

    Returns
    -------
    PackedNetwork
        On one machine equal graph, data and settings give equal bits.

    Raises
    ------
    ValueError
        If there is no data, the network is of mode fp16, or no layer can run on an array.
    """
    settings = settings or PimQatSettings()
    samples = torch.cat(list(calibration)) if calibration else torch.zeros(0)
    with one_thread():
        student = deployed(trained(graph, samples, settings), samples, settings)
    notes = [
        f"{name} runs digitally, on w4a8" for name in student.layers
        if name not in student.on_array
    ]  # fmt: skip
    record = provenance_of("pim_qat", asdict(settings), calibration, notes)
    return packed(student, samples[: settings.start_samples], settings, record)


def trained(graph: FloatGraph, samples: Tensor, settings: PimQatSettings) -> Student:
    """Return the trained student, its arrays those of the training, on the device of `samples`.

    Parameters
    ----------
    graph : FloatGraph
        The float network: start and teacher.
    samples : float[B, ...]
        Training inputs.
    settings : PimQatSettings
        Hyper-parameters; those of the chip matter with `error_training` only.
    """
    if mode_of(graph) != "fixed":
        raise ValueError(f"pim_qat: {graph.name} must be a network of static int8, not of float16")
    if len(samples) < 2:
        raise ValueError(f"pim_qat: at least 2 training inputs are needed, not {len(samples)!r}")
    student = Student(graph, settings.weight_bits, settings.activation_bits, samples.device)
    if not student.on_array:
        raise ValueError(
            f"pim_qat: {graph.name} has no layer for an array: between its first and its last "
            "layer none has one group and reads the output of a ReLU"
        )
    first = samples[: settings.start_samples]
    start(student, first)
    student.backward_rescale = settings.backward_rescale
    if settings.pim_training:
        put_arrays(
            student, settings, first, adc_bits=settings.train_adc_bits or settings.adc_bits,
            errors=settings.error_training, rescale=settings.forward_rescale,
        )  # fmt: skip
    schedule = Schedule(
        settings.steps, settings.batch, settings.rate, settings.decay, settings.shift,
        settings.flip, settings.seed,
    )  # fmt: skip
    train(student, samples, schedule, "pim_qat")
    return student


def deployed(student: Student, samples: Tensor, settings: PimQatSettings) -> Student:
    """Return a student whose arrays are those of the chip, its norms calibrated if so set.

    Parameters
    ----------
    student : Student
        As `trained` returns it; not changed. Only settings of the macro's ADCs and of the chip,
        and `bn_calibration` may differ from those of its training.
    samples : float[B, ...]
        Training inputs.
    settings : PimQatSettings
        Hyper-parameters.
    """
    chip = student.copy()
    put_arrays(
        chip, settings, samples[: settings.start_samples], adc_bits=settings.adc_bits, errors=True,
        rescale=settings.forward_rescale and settings.pim_training,
    )  # fmt: skip
    if settings.bn_calibration:
        calibrate_norms(chip, samples[:NORM_SAMPLES], settings.batch, settings.chip_seed)
    return chip

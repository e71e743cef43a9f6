# SPDX-License-Identifier: Apache-2.0
"""What `cosil info` says of a network is what the network holds."""

from __future__ import annotations

import json

import pytest

from benchmarks.fuzz_networks import cnn, pim, transformer, xnor
from cosil.packed.summary import summarise


def test_counts_of_a_cnn() -> None:
    """Weights, bits and bytes follow from the shapes by hand."""
    summary = summarise(cnn())
    stem = next(node for node in summary.nodes if node.name == "stem")
    assert 16 * 27 == stem.weights
    assert 16 * 4 * 32 == stem.weight_bits  # 27 codes take four words
    assert 16 * 4 * 4 + 16 * 8 == stem.stored_bytes
    assert ("weight int4 twos 16x27", "epilogue uint64 16") == stem.codecs
    assert 16 * 27 + 32 * 144 + 32 * 144 + 10 * 256 == summary.weights
    assert 3 == summary.operations["conv2d"]


def test_counts_of_a_transformer() -> None:
    """Scales count: a group of 8 adds 2 bits a weight, a channel scale 32 / 16."""
    summary = summarise(transformer())
    query = next(node for node in summary.nodes if node.name == "q")
    assert pytest.approx(4 + 16 / 8 + 32 / 16) == query.bits_per_weight
    assert "weight int4 offset g8 16x16" == query.codecs[0]
    assert (0, 16) == query.shape


def test_counts_of_a_network_on_pim() -> None:
    """Bit planes of 12 rows take a word of 64 bits each; codes' bits and rows are named."""
    summary = summarise(pim())
    stem = next(node for node in summary.nodes if node.name == "stem")
    assert 8 * 27 == stem.weights
    assert 8 * 4 * 3 * 64 == stem.weight_bits  # 27 inputs are three groups of rows
    assert 8 * 4 * 3 * 8 + 8 * 8 + 24 * 37 * 2 + 16 * 2 == stem.stored_bytes
    assert "weight bitplane twos b4 r12 8x27" == stem.codecs[0]


def test_counts_of_a_network_on_xnor() -> None:
    """Signs take a word for each 64 inputs, ternary weights two; a polarity is named."""
    nodes = {node.name: node for node in summarise(xnor()).nodes}
    stem, pooled = nodes["stem"], nodes["pooled"]
    assert (8 * 27, 8 * 2 * 64) == (stem.weights, stem.weight_bits)
    assert (12 * 72, 12 * 2 * 64) == (pooled.weights, pooled.weight_bits)
    assert "weight ternary 8x27" == stem.codecs[0]
    assert "weight binary one_is_minus 12x72" == pooled.codecs[0]
    assert 12 * 2 * 8 + 12 * 8 == pooled.stored_bytes


def test_json() -> None:
    """The summary has a JSON form with its totals."""
    tree = json.loads(json.dumps(summarise(cnn()).to_dict()))
    assert "head" == tree["outputs"][0]
    assert tree["stored_bytes"] == sum(node["stored_bytes"] for node in tree["nodes"])

# SPDX-License-Identifier: Apache-2.0
"""Binary layers of other tools: files written here by their rules, and replayed bit by bit."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cosil.packed import binary, graph
from cosil.packed.binary_layers import (
    BinaryLayer,
    finn_thresholds,
    from_bnn_pynq,
    from_larq,
    larq_thresholds,
    threshold_words,
)
from cosil.packed.network import Node, PackedNetwork, Value

Array = NDArray[Any]


def engine_bits(codes: Array, columns: Array, x: Array) -> Array:
    """Return what section 1 says of sums x.w: (s >= threshold) xor flip."""
    words = [int(word) for word in columns]
    threshold = [(word & 0xFFFFFFFF) - ((word >> 31 & 1) << 32) for word in words]
    flip = [word >> 54 & 1 for word in words]
    s = x.astype(np.int64) @ codes.astype(np.int64).T
    return (s >= threshold) ^ np.array(flip, dtype=bool)


def bnn_pynq_files(ones: Array, thresholds: Array, pe: int, simd: int) -> tuple[Array, Array]:
    """Write 0/1 weights [N, K] as PE memories, neuron by neuron: padding synapses are 1."""
    n, k = ones.shape
    folds, tiles = -(-n // pe), -(-k // simd)
    weights = np.zeros((pe, folds * tiles), np.uint64)
    memory = np.full((pe, folds), 2**15 - 1, np.uint64)
    for neuron in range(folds * pe):
        nf, lane = divmod(neuron, pe)
        for synapse in range(tiles * simd):
            inside = neuron < n and synapse < k
            if not inside or ones[neuron, synapse]:
                word = nf * tiles + synapse // simd
                weights[lane, word] |= np.uint64(1 << synapse % simd)
        if neuron < n:
            memory[lane, nf] = np.uint64(int(thresholds[neuron]) % 2**64)
    return weights, memory


@settings(max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(1, 70),
    st.integers(1, 4),
    st.sampled_from([1, 3, 8, 63, 64]),
    st.integers(0, 2**32 - 1),
)
def test_bnn_pynq_layers_are_replayed(n: int, k: int, pe: int, simd: int, seed: int) -> None:
    """A layer gives the bits of the files' own rule: matches of padded words, compared with <."""
    rng = np.random.default_rng(seed)
    ones = rng.integers(0, 2, (n, k))
    thresholds = rng.integers(-2, k + 3, n)
    weights, memory = bnn_pynq_files(ones, thresholds, pe, simd)
    layer = from_bnn_pynq(weights, memory, n=n, k=k, simd=simd)
    x = rng.integers(0, 2, (5, k))
    tiles = -(-k // simd)
    expected = np.zeros((5, n), bool)
    for row in range(5):
        for neuron in range(n):
            nf, lane = divmod(neuron, pe)
            matches = 0
            for tile in range(tiles):
                part = x[row, tile * simd : (tile + 1) * simd]
                word = sum(int(bit) << i for i, bit in enumerate(part))
                held = int(weights[lane, nf * tiles + tile])
                matches += ((word ^ held) ^ (2**simd - 1)).bit_count()
            expected[row, neuron] = int(memory[lane, nf].view(np.int64)) < matches
    found = engine_bits(binary.decode(layer.weight), layer.columns.words, 2 * x - 1)
    np.testing.assert_array_equal(expected, found)


def test_ties_of_bnn_pynq_are_minus_one() -> None:
    """Two of four synapses match a threshold of 2: strictly less, so -1; three match: +1."""
    layer = from_bnn_pynq(np.array([[15]], np.uint64), np.array([[2]], np.uint64), n=1, k=4, simd=4)
    x = np.array([[1, 1, -1, -1], [1, 1, 1, -1]])
    assert [[False], [True]] == engine_bits(np.ones((1, 4)), layer.columns.words, x).tolist()
    assert layer.columns.words.tolist() == [2]  # s >= 2 (2 + 1) - 4


@settings(max_examples=40)
@given(
    st.integers(1, 5),
    st.sampled_from([1, 5, 31, 32, 33, 64]),
    st.sampled_from([(1, 1), (1, 3), (3, 3)]),
    st.integers(0, 2**32 - 1),
)
def test_larq_layers_are_replayed(
    n: int, channels: int, kernel: tuple[int, int], seed: int
) -> None:
    """A layer gives the bits of Larq's own rule: 1, that is -1, where mismatches exceed tau."""
    rng = np.random.default_rng(seed)
    minus = rng.integers(0, 2, (n, *kernel, channels))
    filters = np.zeros((n, *kernel, -(-channels // 32)), np.uint32)
    for place, one in np.ndenumerate(minus):
        filters[(*place[:3], place[3] // 32)] |= np.uint32(int(one) << place[3] % 32)
    k = channels * kernel[0] * kernel[1]
    tau = rng.integers(-2, k + 3, n).astype(np.int32)
    tau[0] = rng.choice([tau[0], 2**31 - 1, -(2**31)])
    layer = from_larq(filters.view(np.int32), tau, channels=channels)
    x = rng.integers(0, 2, (7, *kernel, channels))  # 1 is -1
    mismatches = (x[:, None] != minus[None]).sum(axis=(2, 3, 4))
    expected = ~(mismatches > tau)
    images = (1 - 2 * x).transpose(0, 3, 1, 2).reshape(7, k)
    found = engine_bits(binary.decode(layer.weight), layer.columns.words, images)
    np.testing.assert_array_equal(expected, found)
    assert layer.weight.params == {"polarity": "one_is_minus"}


def test_golden_words_of_other_tools() -> None:
    """One 2-channel 1x2 layer by hand: order (kh, kw, c) becomes (c, kh, kw), polarity stays."""
    # Larq: pixel 0 is (-1, +1), pixel 1 is (-1, -1); so channel 0 is -1 -1, channel 1 is +1 -1.
    filters = np.array([[[[0b01], [0b11]]]], np.int32)
    larq = from_larq(filters, np.array([1], np.int32), channels=2)
    assert [[-1, -1, 1, -1]] == binary.decode(larq.weight).tolist()
    assert [[0b1011]] == larq.weight.words.tolist()
    assert [2] == larq.columns.words.tolist()  # s >= 4 - 2
    # BNN-PYNQ: the same weights, 1 for +1, two synapses to a word.
    words = np.array([[0b10, 0b00]], np.uint64)
    pynq = from_bnn_pynq(words, np.array([[2]], np.uint64), n=1, k=4, simd=2, kernel=(1, 2))
    assert [[-1, -1, 1, -1]] == binary.decode(pynq.weight).tolist()
    assert [[0b0100]] == pynq.weight.words.tolist()
    for layer in (larq, pynq):
        check_node(layer, 4)


def check_node(layer: BinaryLayer, k: int) -> None:
    """Check that the tensors make a node that the packed format takes."""
    node = Node("a", "linear", ("x",), {"mode": "threshold"}, layer._asdict(), "xnor")
    graph.check(PackedNetwork("one", (Value("x", "i8", (k,)),), (node,), ("a",)))


@pytest.mark.parametrize(
    ("multiplier", "bias", "clamp", "tau"),
    [
        (1.0, 0.0, None, 5),  # x > 5 of 10: y = 10 - 2 x < 0
        (0.5, 1.0, None, 6),  # y = 5 - x + 1
        (2.0, -1.0, None, 4),  # x > (10 - 0.5) / 2 = 4.75
        (-1.0, 0.0, None, 5),
        (0.0, 0.0, None, 2**31 - 1),
        (0.0, -1.0, None, -(2**31)),
        (1.0, 11.0, None, 2**31 - 1),
        (1.0, -11.0, None, -(2**31)),
        (1.0, 0.0, (0.0, 6.0), 2**31 - 1),
        (-1.0, 0.0, (0.0, 6.0), 5),
    ],
)
def test_larq_thresholds_by_hand(
    multiplier: float, bias: float, clamp: tuple[float, float] | None, tau: int
) -> None:
    """The converter's threshold for 10 inputs: floor((bias / |multiplier| + 10) / 2)."""
    arrays = [np.array([value], np.float32) for value in (multiplier, bias)]
    found, negated = larq_thresholds(*arrays, 10, clamp)
    assert [tau] == found.tolist()
    assert [multiplier < 0] == negated.tolist()


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_larq_thresholds_write_the_sign(k: int, seed: int) -> None:
    """With exact quotients, x > tau is y < 0 for every x; a negative multiplier counts k - x."""
    rng = np.random.default_rng(seed)
    multiplier = (rng.choice([-1, 1], 8) * 2.0 ** rng.integers(-3, 4, 8)).astype(np.float32)
    bias = (rng.integers(-4 * k, 4 * k + 1, 8) / 2).astype(np.float32)
    tau, negated = larq_thresholds(multiplier, bias, k)
    for channel in range(8):
        for x in range(k + 1):
            y = (k - 2 * x) * multiplier[channel] + bias[channel]
            counted = k - x if negated[channel] else x
            assert (y < 0) == (counted > int(tau[channel]))


@settings(max_examples=60)
@given(st.integers(1, 30), st.lists(st.floats(-50, 50), min_size=1, max_size=4), st.booleans())
def test_finn_thresholds_count_the_tie(k: int, thresholds: list[float], matches: bool) -> None:
    """MultiThreshold's T <= x holds for each sum or count of matches, equality included."""
    thresholds += [0.0, -0.0, float(k), 5e-324, 0.5]
    words = finn_thresholds(np.array(thresholds), k, matches=matches)
    for s in range(-k, k + 1, 2):
        x = (s + k) // 2 if matches else s
        found = [s >= int(word) - (int(word) >> 31 << 32) for word in words]
        assert [threshold <= x for threshold in thresholds] == found


def test_wrong_sizes_are_refused() -> None:
    """Files that do not hold the layer are refused with what they hold."""
    words, thresholds = np.zeros((2, 6), np.uint64), np.zeros((2, 3), np.uint64)
    needs = "must fit PE = 2, 3 thresholds each and SIMD = 8, not words of shape (2, 6)"
    for n, k in ((7, 16), (6, 17), (0, 1)):
        message = f"bnn-pynq: {n} x {k} weights {needs}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            from_bnn_pynq(words, thresholds, n=n, k=k, simd=8)
    with pytest.raises(ValueError, match=r"^bnn-pynq: simd must be in 1\.\.64, not 65$"):
        from_bnn_pynq(words, thresholds, n=1, k=1, simd=65)
    with pytest.raises(ValueError, match=r"^K = 16 must be a multiple of the kernel \(3, 3\)$"):
        from_bnn_pynq(words, thresholds, n=6, k=16, simd=8, kernel=(3, 3))
    with pytest.raises(ValueError, match=r"^larq: 33 channels need filters \[N, kh, kw, 2\] and N"):
        from_larq(np.zeros((2, 1, 1, 1), np.int32), np.zeros(2, np.int32), channels=33)
    with pytest.raises(ValueError, match=r"^finn: thresholds must be finite$"):
        finn_thresholds(np.array([np.inf]), 3)
    with pytest.raises(ValueError, match=r"^xnor: thresholds must be in -2\^31\.\.2\^31-1; clamp"):
        threshold_words(np.array([2**31]))

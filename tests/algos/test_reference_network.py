# SPDX-License-Identifier: Apache-2.0
"""A network's reference equals, at every node, the engine's own and the simulated path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sim.w4a8
from algos.lib.float_ops import KVCache
from algos.reference.network import Reference, execute, fixed_exact
from algos.reference.w4a8 import epilogue_fixed, reference
from benchmarks.fuzz_networks import cnn, transformer
from cosil.engines.w4a8 import W4A8Spec
from cosil.lowering.gemm import layer_jobs, layer_output
from cosil.packed import graph
from cosil.packed.network import Node, PackedNetwork
from sim import vector

pytestmark = pytest.mark.xdist_group("vector")


def _spec(node: Node) -> W4A8Spec:
    weight = node.tensors["weight"]
    grouped = bool(weight.params["group_size"])
    return W4A8Spec(
        array_rows=4,
        array_cols=4,
        scales="group" if grouped else "channel",
        weight_encoding=weight.params["encoding"],
        epilogue=node.attrs.get("mode", "fixed"),
    )


def _walk(
    network: PackedNetwork,
    x: np.ndarray,
    *,
    simulate: bool,
    cache: vector.KVCache | None = None,
) -> dict[str, np.ndarray]:
    """Run a network node by node: `sim.vector`, and products by simulator or reference."""
    values: dict[str, Any] = {network.inputs[0].name: x}
    for node in network.nodes:
        inputs = [values[name] for name in node.inputs]
        if node.op not in ("linear", "conv2d"):
            values[node.name] = vector.apply(node, *inputs, cache=cache)
            continue
        codes, scales = inputs[0], None
        if node.attrs["mode"] == "fp16":
            codes, scales = vector.quantize_rows(inputs[0], node.name)
            codes = codes.reshape(inputs[0].shape)
        spec = _spec(node)
        jobs = layer_jobs(spec, node, codes, scales)
        if simulate:
            ys = [sim.w4a8.run(spec, job, operands).y for job, operands in jobs]
        else:
            ys = [reference(spec, job, operands).numpy() for job, operands in jobs]
        y = layer_output(node, inputs[0].shape, [job for job, _ in jobs], ys)
        if "bias" in node.tensors:
            y = vector.add_bias(y, node.tensors["bias"].words)
        values[node.name] = y
    if cache is not None:
        cache.commit(x.shape[1])
    return values


def _inputs(network: PackedNetwork, batch: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if network.inputs[0].dtype == "ids":
        return rng.integers(0, 40, (batch, 13)).astype(np.int32)
    return rng.standard_normal((batch, *network.inputs[0].shape)).astype(np.float32)


@pytest.mark.parametrize("simulate", [False, True], ids=["reference", "simulator"])
@pytest.mark.parametrize("make", [cnn, transformer])
def test_every_node_has_equal_bits(make: Any, simulate: bool) -> None:
    """Each node's value has the same bits as with the engine's reference, and as simulated.

    The two networks together use every operation of the packed format; the walk reads the memory
    words that a job points into, while the network's reference runs float BLAS on decoded weights.
    """
    network = make()
    x = _inputs(network, batch=2)
    expected = _walk(network, x, simulate=simulate)
    seen: dict[str, np.ndarray] = {}
    outputs = execute(network, x, observe=lambda name, value: seen.update({name: value.numpy()}))
    assert list(seen) == [network.inputs[0].name, *(node.name for node in network.nodes)]
    for name, value in expected.items():
        assert value.dtype == seen[name].dtype, name
        np.testing.assert_array_equal(value, seen[name], err_msg=name)
    assert list(outputs) == list(network.outputs)
    varied = [np.unique(seen[node.name]).size for node in network.nodes]
    assert min(varied) > 2, "a constant value would compare nothing"


@pytest.mark.parametrize("make", [cnn, transformer])
def test_shapes_and_dtypes_are_those_of_the_graph(make: Any) -> None:
    """Every observed value has the dtype and shape that the packed graph infers."""
    network = make()
    inferred = graph.check(network)
    names = {"f32": "float32", "ids": "int32", "i8": "int8", "i16": "int16", "f16": "float16"}

    def observe(name: str, value: torch.Tensor) -> None:
        expected = inferred[name]
        assert f"torch.{names[expected.dtype]}" == str(value.dtype)
        assert len(expected.shape) == value.ndim - 1
        for size, found in zip(expected.shape, value.shape[1:], strict=True):
            assert size in (0, found)

    execute(network, _inputs(network, batch=3), observe=observe)


def test_cache_in_any_pieces_gives_the_bits_of_the_whole() -> None:
    """A sequence fed in pieces through the key-value cache has the bits of the whole."""
    network = transformer(seed=3)
    ids = _inputs(network, batch=2)
    runner = Reference(network)
    whole = runner.run({"ids": ids})["logits"]
    for cuts in ([1] * 13, [5, 8], [7, 1, 4, 1]):
        cache, parts, start = KVCache(), [], 0
        for size in cuts:
            parts.append(runner.run(ids[:, start : start + size], cache=cache)["logits"])
            start += size
        assert cache.length == 13
        assert torch.equal(torch.cat(parts, dim=1).view(torch.int16), whole.view(torch.int16))


def test_simulated_decoding_gives_the_bits_of_the_whole() -> None:
    """Token by token through the simulator's cache: the logits that the reference gives at once."""
    network = transformer(seed=4)
    ids = _inputs(network, batch=2)[:, :6]
    whole = execute(network, ids)["logits"].numpy()
    cache = vector.KVCache()
    for position in range(6):
        step = _walk(network, ids[:, position : position + 1], simulate=True, cache=cache)
        np.testing.assert_array_equal(
            whole[:, position].view(np.uint16), step["logits"][:, 0].view(np.uint16)
        )
    assert cache.length == 6


@pytest.mark.parametrize("make", [cnn, transformer])
def test_batch_does_not_matter(make: Any) -> None:
    """A sample's output is the same alone and in a batch larger than one block of images."""
    network = make()
    x = _inputs(network, batch=35)
    runner = Reference(network)
    together = next(iter(runner.run([x]).values()))
    for index in (0, 31, 32, 34):
        alone = next(iter(runner.run(torch.from_numpy(x[index : index + 1])).values()))
        assert torch.equal(together[index : index + 1], alone)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), relu=st.booleans(), wide=st.booleans())
def test_float64_epilogue_is_the_integer_one(seed: int, relu: bool, wide: bool) -> None:
    """The fixed epilogue in float64 equals the one in int64, ties and extremes included."""
    rng = np.random.default_rng(seed)
    acc = rng.integers(-(2**30), 2**30, (9, 8)) >> rng.integers(0, 30, (9, 8))
    acc[0], acc[1] = 2**30, -(2**30)
    bias = rng.integers(-(2**31), 2**31, 8) >> rng.integers(0, 31, 8)
    mult, shift = rng.integers(0, 2**16, 8), rng.integers(0, 64, 8)
    mult[0], shift[0], bias[0] = 65535, 1, 1
    columns = (bias & 0xFFFFFFFF | mult << 32 | shift << 48).astype(np.uint64)
    codes = torch.from_numpy(acc)
    expected = epilogue_fixed(codes, columns, relu=relu, wide=wide)
    result = fixed_exact(codes.double(), columns, {"relu": relu, "wide": wide}, axis=1)
    assert expected.dtype == result.dtype
    assert torch.equal(expected, result)


WRONG: list[tuple[Any, type[Exception], str]] = [
    ({"x": 1}, ValueError, r"^network fuzz-cnn: inputs must be image, not x$"),
    ([], ValueError, r"^network fuzz-cnn: 1 inputs are required, not 0$"),
    (
        np.zeros((1, 3, 8, 8)),
        TypeError,
        r"^network fuzz-cnn: input 'image' must have torch.float32, not torch.float64$",
    ),
    (
        np.zeros((1, 3, 8, 9), dtype=np.float32),
        ValueError,
        (
            r"^network fuzz-cnn: input 'image' must have the shape \(batch, 3, 8, 8\), "
            r"not \(1, 3, 8, 9\)$"
        ),
    ),
]


@pytest.mark.parametrize(("inputs", "error", "message"), WRONG)
def test_wrong_inputs_are_refused(inputs: Any, error: type[Exception], message: str) -> None:
    """Missing, surplus and misshapen inputs are refused with what was expected."""
    with pytest.raises(error, match=message):
        execute(cnn(), inputs)


def test_a_failed_run_leaves_the_cache_as_it_was() -> None:
    """A run that is refused half-way (a position past the table) does not extend the cache."""
    network, cache = transformer(), KVCache()
    runner = Reference(network)
    ids = np.zeros((1, 30), dtype=np.int64)
    runner.run(ids, cache=cache)
    with pytest.raises(ValueError, match=r"^place: position 32 is past the table of 32 positions$"):
        runner.run(ids[:, :3], cache=cache)
    assert cache.length == 30
    assert {keys.shape[2] for keys in cache.keys.values()} == {30}

# SPDX-License-Identifier: Apache-2.0
"""Round to nearest, and what every method shares: integer epilogues and whole packed networks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from algos.lib.emit import bits_per_weight, fixed_epilogue, multiplier
from algos.lib.export import export
from algos.lib.graph import FloatGraph, FloatNode, execute
from algos.models.gpt import Gpt, GptConfig
from algos.reference.network import execute as run_packed
from algos.rtn import RtnSettings, compress
from cosil.packed import file, int4, raw
from cosil.packed.network import Value

torch.set_num_threads(1)


class Cnn(nn.Module):
    """Every operation of an int8 network: residual, option-A shortcut, pools, groups, concat."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4)
        self.side = nn.Conv2d(16, 8, 1)
        self.last = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.first(x)))
        y = self.grouped(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = F.relu(y + shortcut)
        x = F.max_pool2d(x, 2)
        x = torch.cat((x, self.side(x)), dim=1)
        x = F.adaptive_avg_pool2d(x, 1)
        return self.last(x.flatten(1))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.standard_normal((40, 3, 3, 3))).float()
    return F.interpolate(coarse, size=(12, 12), mode="bilinear")


@pytest.fixture(scope="module")
def cnn(images: torch.Tensor) -> FloatGraph:
    torch.manual_seed(0)
    module = Cnn()
    module.train()
    with torch.no_grad():
        module(images)
    return export(module, (images[:2],), name="cnn")


@pytest.fixture(scope="module")
def gpt() -> FloatGraph:
    torch.manual_seed(0)
    config = GptConfig(16, 2, 2, 13, 12, activation="gelu", norm="layernorm")
    return export(Gpt(config), (torch.arange(24).reshape(2, 12) % 13,), name="gpt")


@settings(max_examples=200, deadline=None)
@given(st.floats(2.0**-47, 2.0**15))
def test_multipliers_are_normalised_and_nearest(ratio: float):
    """A mult of 2**15 .. 2**16 - 1 within half a unit of the ratio."""
    mult, shift = multiplier(ratio)
    assert 2**15 <= mult <= 2**16 - 1
    assert 0 <= shift <= 63
    assert abs(mult / 2.0**shift - ratio) <= 2.0 ** (-shift - 1) * (1 + 2**-30)


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf"), 65536.0])
def test_impossible_ratios_are_refused(ratio: float):
    """Zero, negative, NaN, infinite and too large ratios raise."""
    with pytest.raises(ValueError, match=r"^multiplier: ratio must be"):
        multiplier(ratio)


def test_epilogue_words_hold_bias_multiplier_and_shift():
    """Fields decode to RNE(b / (s_in s_w)) and s_in s_w / s_out; too large a bias raises."""
    channel, bias = np.array([0.01, 0.5]), np.array([-3.0, 0.0123])
    words = fixed_epilogue(channel, bias, 0.02, 0.07)
    for n in (0, 1):
        word = int(words[n])
        unit = 0.02 * channel[n]
        folded = word & 0xFFFFFFFF
        assert round(bias[n] / unit) == (folded - 2**32 if folded >= 2**31 else folded)
        mult, shift = word >> 32 & 0xFFFF, word >> 48 & 0x3F
        assert abs(mult / 2**shift / (unit / 0.07) - 1) <= 2.0**-16
        assert word >> 54 == 0
    with pytest.raises(ValueError, match=r"^epilogue: bias of channel 1 is 2000000000 units"):
        fixed_epilogue(np.array([1.0, 1e-9]), np.array([0.0, 2.0]), 1.0, 1.0)


@pytest.mark.parametrize("scales", ["channel", "group"])
def test_int8_network_follows_the_float_one(
    cnn: FloatGraph, images: torch.Tensor, scales: str, tmp_path
):
    """Exact integer execution of the saved file gives logits near the float network's."""
    network = compress(cnn, [images[:16], images[16:]], RtnSettings(scales, group_size=20))
    file.save(network, tmp_path / "cnn.cosil")
    loaded = file.load(tmp_path / "cnn.cosil")
    (codes,) = run_packed(loaded, images).values()
    assert codes.dtype == torch.int16
    last = next(node for node in loaded.nodes if node.name == loaded.outputs[0])
    got = codes.float() * last.attrs["scale"]
    wanted = execute(cnn, images)[0]
    assert float((got - wanted).norm() / wanted.norm()) < 0.35
    assert np.corrcoef(got.flatten(), wanted.flatten())[0, 1] > 0.95
    engines = {node.op for node in loaded.nodes if node.engine == "w4a8"}
    assert engines == {"conv2d", "linear"}
    assert sum(node.engine == "w4a8" for node in loaded.nodes) == 4
    fused = [node.op for node in loaded.nodes if node.attrs.get("relu", False)]
    assert fused == ["conv2d", "add"]
    assert "relu" not in {node.op for node in loaded.nodes}


@pytest.mark.parametrize("scales", ["channel", "group"])
def test_float16_network_follows_the_float_one(gpt: FloatGraph, scales: str, tmp_path):
    """Execution of the saved file gives logits near the float network's; no data is needed."""
    network = compress(gpt, [], RtnSettings(scales, group_size=24))
    file.save(network, tmp_path / "gpt.cosil")
    loaded = file.load(tmp_path / "gpt.cosil")
    ids = torch.arange(36).reshape(3, 12) % 13
    (got,) = run_packed(loaded, ids).values()
    wanted = execute(gpt, ids)[0]
    assert got.dtype == torch.float16
    assert np.corrcoef(got.float().flatten(), wanted.flatten())[0, 1] > 0.97
    linear = [node for node in loaded.nodes if node.op == "linear"]
    assert len(linear) == len(gpt.ops("linear"))
    assert all(node.engine == "w4a8" for node in linear)


@pytest.mark.parametrize("scales", ["channel", "group"])
def test_codes_are_the_nearest(gpt: FloatGraph, scales: str):
    """Packed codes and scales equal plain rounding in NumPy; narrow layers have one short group."""
    network = compress(gpt, [], RtnSettings(scales))
    for node in network.nodes:
        if node.op != "linear":
            continue
        weight = gpt.node(node.name).tensors["weight"].numpy()
        packed = node.tensors["weight"]
        largest = np.abs(weight).max(axis=1, keepdims=True)
        if scales == "channel":
            step = largest / np.float32(7)
            expected = np.clip(np.rint(weight / step), -7, 7)
            assert np.array_equal(packed.scales["channel"], step[:, 0])
        else:
            step = largest / np.float32(7.5)
            expected = np.clip(np.rint(weight / step), -8, 7)
            assert packed.scales["group"].shape == (1, weight.shape[0])
            assert packed.params["group_size"] == weight.shape[1]
        assert np.array_equal(expected, int4.decode(packed))


def test_tiny_weights_beside_a_bias_become_the_bias_alone():
    """A channel whose folded bias would not fit keeps its bias and loses its weights."""
    weight, bias = torch.tensor([[1.0, -1.0], [1e-12, 2e-12]]), torch.tensor([0.1, 0.5])
    node = FloatNode("y", "linear", ("x",), {}, {"weight": weight, "bias": bias})
    graph = FloatGraph("one", (Value("x", "f32", (2,)),), (node,), ("y",))
    network = compress(graph, [torch.tensor([[1.0, 0.5], [-1.0, 0.25]])])
    (codes,) = run_packed(network, torch.tensor([[1.0, 0.5]])).values()
    got = codes.float() * network.nodes[-1].attrs["scale"]
    assert torch.allclose(torch.tensor([[0.6, 0.5]]), got, atol=0.02)
    assert int4.decode(network.nodes[-1].tensors["weight"])[1].tolist() == [0, 0]


def test_bits_per_weight_counts_what_is_stored(gpt: FloatGraph):
    """Padded codes and 32-bit channel scales, over the number of weights."""
    network = compress(gpt, [])
    weights = [gpt.node(n.name).tensors["weight"] for n in network.nodes if n.op == "linear"]
    bits = sum(w.shape[0] * (32 * -(-w.shape[1] // 8) + 32) for w in weights)
    assert bits_per_weight(network) == bits / sum(w.numel() for w in weights)


def test_the_record_names_settings_and_data(cnn: FloatGraph, images: torch.Tensor):
    """Provenance holds method, settings and a digest that changes with the data."""
    one = compress(cnn, [images[:8]]).provenance
    two = compress(cnn, [images[8:16]]).provenance
    assert one["method"] == "rtn"
    assert one["settings"]["observer"] == "mse"
    assert one["calibration"]["samples"] == 8
    assert one["calibration"]["sha256"] != two["calibration"]["sha256"]


def test_errors_name_what_is_wrong(cnn: FloatGraph, gpt: FloatGraph):
    """Wrong settings, missing data and operations without an int8 form are refused by name."""
    with pytest.raises(ValueError, match=r"^rtn: scales must be 'channel' or 'group', not 'row'$"):
        RtnSettings("row")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^rtn: group_size must be at least 1, not 0$"):
        RtnSettings("group", 0)
    with pytest.raises(ValueError, match=r"^cnn: calibration data is needed, none was given"):
        compress(cnn, [])
    scaled = FloatNode("half", "scale", ("x",), {"factor": 0.5})
    graph = FloatGraph("s", (Value("x", "f32", (2,)),), (scaled,), ("half",))
    with pytest.raises(ValueError, match=r"^s: 'half' \(scale\) has no int8 form; known are"):
        compress(graph, [torch.ones(1, 2)])
    norm = gpt.ops("layernorm")[0]
    mixed = FloatNode("n", "layernorm", ("x",), norm.attrs, norm.tensors)
    graph = FloatGraph("m", (Value("x", "f32", (0, 16)),), (mixed,), ("n",))
    with pytest.raises(ValueError, match=r"^m: 'n' \(layernorm\) works on float16 values"):
        compress(graph, [torch.ones(1, 2, 16)])


def test_static_biases_are_raw_words(cnn: FloatGraph, images: torch.Tensor):
    """Every engine layer of an int8 network carries one 64-bit word per output channel."""
    network = compress(cnn, [images])
    for node in network.nodes:
        if node.engine == "w4a8":
            words = raw.decode(node.tensors["epilogue"])
            assert words.dtype == np.uint64
            assert words.shape == (node.tensors["weight"].shape[0],)

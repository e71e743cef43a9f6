# SPDX-License-Identifier: Apache-2.0
"""PIM-QAT trains with the integers that the packed network has, and does what its switches say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos import pim_qat
from algos.lib.export import export
from algos.lib.graph import FloatGraph, execute
from algos.lib.metrics import kl_divergence
from algos.lib.qat.codes import activation_codes, constant_scale, weight_codes
from algos.lib.qat.layers import Geometry
from algos.lib.qat.start import start
from algos.pim_qat import PimQatSettings, compress, deployed, trained
from algos.pim_qat.emission import packed
from algos.pim_qat.macro import put_arrays
from algos.pim_qat.structure import array_layers
from algos.pim_qat.student import Student
from algos.reference.network import Reference
from algos.reference.pim_node import PimLayer
from cosil.packed import bitplane, file, raw
from cosil.packed.network import Node, PackedNetwork

torch.set_num_threads(1)

IMAGES = torch.from_numpy(np.random.default_rng(0).random((96, 1, 8, 8))).float()
CHIP = {"gain_sigma": 0.02, "offset_sigma": 0.4, "inl_peak": 1.0}


class Net(nn.Module):
    """What a layer on an array may meet: stride, shortcut, pooling, a hidden linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 10, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(10)
        self.same = nn.Conv2d(10, 10, (3, 1), padding=(1, 0))
        self.signed = nn.Conv2d(10, 10, 1)
        self.hidden = nn.Linear(40, 12)
        self.last = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 5)."""
        x = F.relu(self.norm(self.down(F.relu(self.first(x)))))
        # `signed` reads what no ReLU has made positive.
        x = F.relu(x + self.signed(self.same(x)))
        x = F.max_pool2d(x, 2).flatten(1)
        return self.last(F.relu(self.hidden(x)))


@pytest.fixture(scope="module")
def graph() -> FloatGraph:
    torch.manual_seed(1)
    net = Net()
    with torch.no_grad():
        net.last.weight.mul_(8.0)
        net.norm(net.down(F.relu(net.first(IMAGES))))
    return export(net.eval(), (IMAGES[:2],), name="net")


def _chip(graph: FloatGraph, settings: PimQatSettings) -> Student:
    return deployed(trained(graph, IMAGES, settings), IMAGES, settings)


# -- quantisers ----------------------------------------------------------------------------------


def test_weight_codes_are_symmetric_and_reach_the_end():
    """RNE(q tanh(w) / max |tanh(w)|); the scale gives the deviation 1 / sqrt(n)."""
    weight = torch.randn(7, 5, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    weight.requires_grad_()
    codes = weight_codes(weight, 4)
    flat = weight.detach().numpy()
    wanted = np.rint(np.tanh(flat) / np.abs(np.tanh(flat)).max() * 7)
    assert np.array_equal(wanted, codes.detach().numpy())
    assert codes.abs().max() == 7
    assert torch.equal(-codes, weight_codes(-weight, 4))
    scaled = (codes * constant_scale(codes)).detach()
    assert float(scaled.std(correction=0)) == pytest.approx(63**-0.5)
    (gradient,) = torch.autograd.grad(codes.sum(), weight)
    np.testing.assert_allclose(gradient, (1 - np.tanh(flat) ** 2) * 7 / np.abs(np.tanh(flat)).max())


def test_the_gradient_of_a_clip_is_that_of_sat():
    """By the step: rounded less value inside the range, the bound outside; by the value: 1, 0."""
    x = torch.tensor([-1.0, 0.3, 1.1, 7.4, 9.0], dtype=torch.double, requires_grad=True)
    step = torch.tensor(0.5, dtype=torch.double, requires_grad=True)
    weight = torch.tensor([1.0, 10.0, 100.0, 1e3, 1e4], dtype=torch.double)
    y = activation_codes(x, step, low=0, high=15) * step
    by_x, by_step = torch.autograd.grad((y * weight).sum(), (x, step))
    assert by_x.tolist() == [0, 10, 100, 1e3, 0]
    inside = [1 - 0.6, 2 - 2.2, 15 - 14.8]
    wanted = 10 * inside[0] + 100 * inside[1] + 1e3 * inside[2] + 15e4
    assert float(by_step) == pytest.approx(wanted)


# -- structure, start, gradient ------------------------------------------------------------------


def test_layers_on_the_array(graph: FloatGraph):
    """First, last and what reads negative values stay digital."""
    assert array_layers(graph) == ("down", "same", "hidden")
    grouped = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(128, 3),
    )  # fmt: skip
    assert array_layers(export(grouped, (IMAGES[:2],), name="grouped")) == ("4",)


def test_training_starts_at_the_float_network(graph: FloatGraph):
    """Norms put back in, steps and clips: the student's logits follow the float ones."""
    student = Student(graph, 8, 7)
    start(student, IMAGES)
    got, wanted = student.forward(IMAGES).detach(), execute(graph, IMAGES)[0]
    assert float(torch.corrcoef(torch.stack([got.flatten(), wanted.flatten()]))[0, 1]) > 0.98
    coarse = Student(graph, 4, 4)
    start(coarse, IMAGES)
    shortcut = coarse.graph.node("hidden").inputs[0]
    assert coarse.clipped == {"first", "down", coarse.roots[shortcut]}
    # A step of 15 codes is coarser than one of 127 for the same values.
    assert bool(coarse.step("down") > 4 * student.step("down"))


@pytest.mark.parametrize("decomposition", ["bit_serial", "differential", "native"])
def test_gradients_pass_every_conversion(graph: FloatGraph, decomposition: str):
    """An array's gradient is the digital layer's; xi multiplies it by the ratio of deviations."""
    settings = PimQatSettings(decomposition=decomposition, adc_bits=6, rows=40)
    student = Student(graph, 4, 4)
    start(student, IMAGES)
    node = student.graph.node("down")
    layer = student.layers["down"]
    x = (torch.randint(0, 20, (8, 6, 8, 8)) * student.step("first")).detach().requires_grad_()
    above = torch.randn(8, 10, 4, 4)

    def gradients() -> tuple[Tensor, ...]:
        y = student.raw(node, x, None)
        return torch.autograd.grad((y * above).sum(), (x, layer.weight))

    digital, exact = gradients(), student.raw(node, x, None).detach()
    put_arrays(student, settings, IMAGES, adc_bits=6, errors=False, rescale=False)
    student.backward_rescale = False
    for wanted, got in zip(digital, gradients(), strict=True):
        torch.testing.assert_close(got, wanted)
    student.backward_rescale = True
    sums = student.raw(node, x, None).detach()
    assert not torch.equal(sums, exact)
    xi = (sums.std() / exact.std()).item()
    for wanted, got in zip(digital, gradients(), strict=True):
        torch.testing.assert_close(got, wanted * xi)


# -- the packed network --------------------------------------------------------------------------


def _sums(node: Node, codes: Tensor) -> Tensor:
    """Return the reference's accumulators: an epilogue that divides by its sixteenths alone."""
    rows = node.tensors["weight"].shape[0]
    words = np.full(rows, (1 << 15) << 32 | 19 << 48, dtype=np.uint64)
    tensors = {**node.tensors, "epilogue": raw.encode(words)}
    plain = replace(node, tensors=tensors, attrs={**node.attrs, "wide": True, "relu": False})
    return PimLayer(plain)(codes)


def _epilogue(acc: Tensor, words: np.ndarray, axis: int, *, relu: bool) -> np.ndarray:
    """Return sat8(RNE((±16 acc + bias) mult / 2**shift)) in Python's integers."""
    shape = [-1 if i == axis else 1 for i in range(acc.ndim)]
    bias = (words & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.int32)
    mult = ((words >> np.uint64(32)) & np.uint64(0xFFFF)).astype(object)
    half = np.array([1 << int(w >> np.uint64(48) & np.uint64(63)) for w in words], dtype=object)
    sign = np.where(words >> np.uint64(54) & np.uint64(1), -1, 1).astype(object)
    total = 16 * sign.reshape(shape) * acc.numpy().astype(int).astype(object)
    product = (total + bias.astype(object).reshape(shape)) * mult.reshape(shape)
    divisor = np.broadcast_to(half.reshape(shape), product.shape)
    quotient = product // divisor
    rest = 2 * (product - quotient * divisor)
    up = (rest > divisor) | ((rest == divisor) & (quotient % 2 == 1))
    return (quotient + up).clip(0 if relu else -128, 127).astype(int)


@pytest.mark.parametrize(
    "settings",
    [
        PimQatSettings(rows=40, steps=3, adc_bits=5, columns=16, mux=4, **CHIP),
        PimQatSettings(
            decomposition="differential", rows=30, slice_bits=2, adc_bits=4, weight_bits=5,
            grid="search", steps=3, columns=10, mux=2,
        ),
        PimQatSettings(
            decomposition="native", rows=64, slice_bits=4, adc_bits=6, grid="A", grid_lsb=9,
            grid_offset=-4, activation_bits=4, steps=3, columns=8, mux=2, train_adc_bits=7, **CHIP,
        ),
    ],
    ids=lambda settings: settings.decomposition,
)  # fmt: skip
def test_integers_of_the_training_are_those_of_the_packed_network(
    graph: FloatGraph, settings: PimQatSettings
):
    """On the packed network's own values each array layer's sums are the reference's, exactly.

    With norms of either sign; folded, they give its outputs exactly. Over the whole network few of
    the student's codes differ: those near a tie, which a folded norm's 16 bits decide otherwise.
    """
    student = _chip(graph, settings)
    norm = student.layers["down"].norm
    assert norm is not None
    with torch.no_grad():
        norm.gamma[::2] *= -1
    network = packed(student, IMAGES, settings, {})
    values: dict[str, Tensor] = {}
    Reference(network).run(IMAGES, observe=values.__setitem__)
    seen: dict[str, Tensor] = {}
    student.forward(IMAGES, before=lambda node, x: seen.__setitem__(node.name, x.detach()))
    for node in network.nodes:
        if node.engine != "pim":
            continue
        layer = student.layers[node.name]
        assert layer.array is not None
        codes = values[node.inputs[0]]
        x = codes.clamp(0, 15).float()
        x = x[:, :, None, None] if node.op == "linear" else x
        acc = layer.array.accumulate(x, layer.codes().detach(), layer.geometry)
        acc = acc.flatten(1) if node.op == "linear" else acc
        assert torch.equal(acc.short(), _sums(node, codes)), node.name
        words = node.tensors["epilogue"].words
        relu = bool(node.attrs["relu"])
        wanted = values[node.name].numpy()
        assert np.array_equal(_epilogue(acc, words, 1, relu=relu), wanted), node.name
        assert len(np.unique(wanted)) > 8
        far = torch.round(seen[node.name] / student.step(node.inputs[0])) - codes
        assert float((far != 0).float().mean()) < 0.1
    assert bool((network.nodes[2].tensors["epilogue"].words >> np.uint64(54)).any())


def test_noise_has_the_spread_of_the_packed_network(graph: FloatGraph):
    """Sums with noise, less those without: mean and deviation within four standard errors."""
    settings = PimQatSettings(rows=40, steps=0, adc_bits=6, noise_sigma=0.6, bn_calibration=False)
    student = _chip(graph, settings)
    network = packed(student, IMAGES, settings, {})
    node = next(node for node in network.nodes if node.name == "same")
    layer = student.layers["same"]
    assert layer.array is not None
    codes = torch.randint(0, 16, (64, 10, 4, 4), generator=torch.Generator().manual_seed(2))
    quiet = replace(layer.array, noise=layer.array.noise[:0])
    weight = layer.codes().detach()
    exact = quiet.accumulate(codes.float(), weight, layer.geometry)
    generator = torch.Generator().manual_seed(3)
    ours = layer.array.accumulate(codes.float(), weight, layer.geometry, generator) - exact
    theirs = _sums(node, codes.to(torch.int8)).float() - exact
    count = ours.numel()
    for a, b in ((ours, theirs), (ours.square(), theirs.square())):
        error = float((a.var() + b.var()).sqrt()) / count**0.5
        assert abs(float(a.mean() - b.mean())) < 4 * error
    assert float(ours.std()) > 1


# -- the method ----------------------------------------------------------------------------------


def _divergence(network: PackedNetwork, graph: FloatGraph) -> float:
    scale = next(float(n.attrs["scale"]) for n in network.nodes if n.name == network.outputs[0])
    (logits,) = Reference(network).run(IMAGES[64:]).values()
    return float(kl_divergence(execute(graph, IMAGES[64:])[0], logits.double() * scale).mean())


def test_training_through_the_array_beats_deploying_a_digital_network(graph: FloatGraph, tmp_path):
    """On held-out images, from the saved file; equal settings give equal bits."""
    common = {"rows": 40, "slice_bits": 4, "adc_bits": 4, "steps": 60, "batch": 32, "rate": 0.1,
              "shift": 0}  # fmt: skip
    batches = [IMAGES[:32], IMAGES[32:64]]
    settings = PimQatSettings(**common)
    network = compress(graph, batches, settings)
    file.save(network, tmp_path / "net.cosil")
    loaded = file.load(tmp_path / "net.cosil")
    direct = compress(graph, batches, PimQatSettings(**common, pim_training=False))
    assert _divergence(loaded, graph) < 0.8 * _divergence(direct, graph)
    assert loaded.provenance["method"] == "pim_qat"
    assert loaded.provenance["settings"]["adc_bits"] == 4
    assert loaded.provenance["notes"][0] == "first runs digitally, on w4a8"
    again = compress(graph, batches, settings)
    for one, two in zip(network.nodes, again.nodes, strict=True):
        for name, tensor in one.tensors.items():
            assert np.array_equal(tensor.words, two.tensors[name].words)
        if one.engine == "pim":
            assert np.abs(bitplane.decode(one.tensors["weight"])).max() == 7


def test_calibration_of_norms_changes_norms_alone(graph: FloatGraph):
    """Running statistics become those of the sums behind the chip's arrays."""
    settings = PimQatSettings(rows=40, adc_bits=4, steps=0, **CHIP)
    student = trained(graph, IMAGES, settings)
    plain = deployed(student, IMAGES, replace(settings, bn_calibration=False))
    chip = deployed(student, IMAGES, settings)
    for name, layer in chip.layers.items():
        before = plain.layers[name]
        assert torch.equal(before.weight, layer.weight)
        if layer.norm is None or before.norm is None:
            continue
        assert torch.equal(before.norm.gamma, layer.norm.gamma)
        if name in chip.on_array:
            assert not torch.allclose(before.norm.mean, layer.norm.mean, rtol=1e-3)
    node = chip.graph.node("down")
    held: list[Tensor] = []
    chip.forward(IMAGES[:64], 0.0, before=lambda n, x: held.append(x) if n.name == "down" else None)
    sums = chip.raw(node, held[0], None).detach()
    norm = deployed(student, IMAGES[:64], settings).layers["down"].norm
    assert norm is not None
    torch.testing.assert_close(norm.mean, sums.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_switches(graph: FloatGraph):
    """Each switch leaves its part out of the training."""
    base = PimQatSettings(rows=40, adc_bits=5, steps=0, **CHIP)

    def layer(**changes: object):
        return trained(graph, IMAGES, replace(base, **changes)).layers["down"]

    assert layer(pim_training=False).array is None
    ideal, erring = layer().array, layer(error_training=True).array
    assert ideal is not None
    assert erring is not None
    assert len(ideal.table) == 1 < len(erring.table) == base.spec().outputs * 4
    assert ideal.grid.adc_bits == 5
    finer = layer(train_adc_bits=8).array
    assert finer is not None
    assert finer.grid.adc_bits == 8
    assert layer(forward_rescale=False).eta == 1.0 != layer().eta
    assert not trained(graph, IMAGES, replace(base, backward_rescale=False)).backward_rescale
    searched = layer(grid="search").array
    assert searched is not None
    assert searched.grid.kind == "A"
    assert Geometry((2, 2), (1, 1), (1, 1)) == layer().geometry


def test_wrong_use_is_refused(graph: FloatGraph):
    """Settings, data and networks without a layer for the array raise by name."""
    with pytest.raises(ValueError, match=r"^pim_qat: grid must be one of 'B', 'A', 'search', not"):
        PimQatSettings(grid="C")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^pim_qat: steps must be at least 0, not -1$"):
        PimQatSettings(steps=-1)
    with pytest.raises(ValueError, match=r"^pim_qat: rate must be positive, not 0.0$"):
        PimQatSettings(rate=0.0)
    with pytest.raises(ValueError, match=r"^pim_qat: train_adc_bits must be 0 or 2..10, not 11$"):
        PimQatSettings(train_adc_bits=11)
    with pytest.raises(ValueError, match="adc_bits"):
        PimQatSettings(adc_bits=11)
    with pytest.raises(ValueError, match=r"^pim_qat: at least 2 training inputs are needed, not 0"):
        compress(graph, [])
    with pytest.raises(ValueError, match=r"^pim_qat: rows must be at least kh \* kw = 9 of a conv"):
        compress(graph, [IMAGES], PimQatSettings(rows=8, steps=0))
    flat = export(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), (IMAGES[:2],), name="flat")
    with pytest.raises(ValueError, match=r"^pim_qat: flat has no layer for an array: between its"):
        compress(flat, [IMAGES])
    assert pim_qat.SETTINGS is PimQatSettings

# SPDX-License-Identifier: Apache-2.0
"""Binary training: bits of the student are those of the packed network; what settings do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn

from algos import binary
from algos.binary import BINARISERS, BinarySettings, compress, packed, trained
from algos.binary.student import Student
from algos.lib.export import export
from algos.lib.graph import FloatGraph, execute
from algos.lib.metrics import kl_divergence
from algos.lib.qat.start import start
from algos.reference.network import Reference
from cosil.cli import cli
from cosil.packed import codecs, file
from cosil.packed.network import PackedNetwork

torch.set_num_threads(1)

IMAGES = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 1, 8, 8))).float()


class Chain(nn.Module):
    """Layers that binary layers alone read: pooling, stride, a hidden linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.pooled = nn.Conv2d(6, 10, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(10)
        self.tall = nn.Conv2d(10, 12, (3, 2), stride=(1, 2), padding=(1, 0))
        self.hidden = nn.Linear(96, 14)
        self.last = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 5)."""
        x = F.relu(self.norm(self.pooled(F.relu(self.first(x)))))
        x = F.relu(self.tall(F.max_pool2d(x, 2))).flatten(1)
        return self.last(F.relu(self.hidden(x)))


class Shortcut(nn.Module):
    """A value that is added and read by a binary layer, and a sum whose average is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 10, 3, stride=2, padding=1)
        self.same = nn.Conv2d(10, 10, 3, padding=2, dilation=2)
        self.more = nn.Conv2d(10, 10, 1)
        self.last = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 5)."""
        x = F.relu(self.down(F.relu(self.first(x))))
        x = F.relu(x + self.more(F.relu(self.same(x))))
        return self.last(F.adaptive_avg_pool2d(x, 1).flatten(1))


def _graph(net: nn.Module) -> FloatGraph:
    return export(net.eval(), (IMAGES[:2],), name=type(net).__name__.lower())


@pytest.fixture(scope="module")
def chain() -> FloatGraph:
    torch.manual_seed(1)
    net = Chain()
    with torch.no_grad():
        net.norm(net.pooled(F.relu(net.first(IMAGES))))
        net.last.weight.mul_(8.0)
    return _graph(net)


@pytest.fixture(scope="module")
def shortcut() -> FloatGraph:
    torch.manual_seed(2)
    return _graph(Shortcut())


def _values(network: PackedNetwork) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    Reference(network).run(IMAGES, observe=values.__setitem__)
    return values


def _read(student: Student) -> dict[str, Tensor]:
    """Return the codes that each layer reads, by the layer's name."""
    seen: dict[str, Tensor] = {}
    with torch.no_grad():
        student.forward(
            IMAGES,
            before=lambda node, x: seen.__setitem__(
                node.name, torch.round(x / student.step(node.inputs[0])).to(torch.int8)
            ),
        )
    return seen


def _unsettle(student: Student) -> None:
    """Give the norms gains of both signs, tiny and 0, as training might."""
    with torch.no_grad():
        for name in student.binary:
            norm = student.layers[name].norm
            assert norm is not None
            norm.gamma[::2] *= -1
            norm.gamma[1] = 0
            norm.gamma[2] = -1e-9


@pytest.mark.parametrize("name", BINARISERS)
def test_bits_of_the_student_are_those_of_the_packed_network(chain: FloatGraph, name: str):
    """Every code that a layer of a chain reads is equal, after training, norms of all kinds."""
    student = trained(chain, IMAGES, BinarySettings(binariser=name, steps=3, batch=16, rate=0.5))
    _unsettle(student)
    network = packed(student, IMAGES, {})
    values, seen = _values(network), _read(student)
    for node in network.nodes:
        if node.name in seen:
            assert torch.equal(values[node.inputs[0]], seen[node.name]), node.name
            assert len(values[node.inputs[0]].unique()) > 1
    nodes = {node.name: node for node in network.nodes}
    assert [nodes[name].attrs.get("pool") for name in student.binary] == [[2, 2], None, None]
    modes = [nodes[name].attrs["mode"] for name in student.binary]
    assert modes == ["threshold", "threshold", "fixed"]
    assert not any(node.op == "maxpool" for node in network.nodes)
    kind = "ternary" if BINARISERS[name].ternary else "binary"
    for layer in student.binary:
        weight = nodes[layer].tensors["weight"]
        assert weight.codec == kind
        codes = codecs.decode(weight)
        assert set(np.unique(codes)) == ({-1, 0, 1} if kind == "ternary" else {-1, 1})


def test_shortcuts_are_added_in_fixed_point(shortcut: FloatGraph):
    """A value that is added too is an int8 of mode fixed; codes are equal up to the addition."""
    student = trained(shortcut, IMAGES, BinarySettings(steps=3, batch=16))
    _unsettle(student)
    network = packed(student, IMAGES, {})
    nodes = {node.name: node for node in network.nodes}
    modes = {name: nodes[name].attrs["mode"] for name in student.binary}
    assert modes == {"down": "fixed", "same": "threshold", "more": "fixed"}
    values, seen = _values(network), _read(student)
    for name in ("first", "down", "same", "more"):
        assert torch.equal(values[nodes[name].inputs[0]], seen[name]), name
    assert len(values["down"].unique()) > 8
    off = values[nodes["last"].inputs[0]].int() - seen["last"].int()
    assert int(off.abs().max()) <= 1


def test_an_exact_threshold_is_that_of_the_float_norm(chain: FloatGraph):
    """But for rounding errors: float sums far from the threshold give the bit that is deployed."""
    student = Student(chain, BINARISERS["recu"])
    start(student, IMAGES)
    _unsettle(student)
    node = student.graph.node(student.thresholds[0])
    layer = student.layers[node.name]
    norm = layer.norm
    assert norm is not None
    seen: dict[str, Tensor] = {}
    with torch.no_grad():
        student.forward(IMAGES, before=lambda n, x: seen.__setitem__(n.name, x))
        y = norm(student.raw(node, seen[node.name], None), None)
        bits = student.exact(node, seen[node.name])
    far = y.abs() > 1e-5
    assert float(far.float().mean()) > 0.7
    assert torch.equal(bits[far], torch.where(y >= 0, 1.0, -1.0)[far])


def test_layers_and_relus(chain: FloatGraph, shortcut: FloatGraph):
    """All layers but the first and last are binary; a ReLU stays where only digital values go."""
    student = Student(chain, BINARISERS["ste"])
    assert student.binary == ("pooled", "tall", "hidden")
    assert student.thresholds == ("pooled", "tall")
    kept = [node.name for node in student.graph.nodes if node.attrs.get("relu", False)]
    assert kept == ["hidden"]
    student = Student(shortcut, BINARISERS["ste"])
    assert [node.op for node in student.graph.nodes if node.attrs.get("relu", False)] == ["add"]


def test_training_follows_the_teacher_or_the_labels(chain: FloatGraph):
    """Sixty steps halve the divergence from the float network; labels are learned as well."""
    wanted = execute(chain, IMAGES)[0]

    def divergence(student: Student) -> float:
        with torch.no_grad():
            return float(kl_divergence(wanted, student.forward(IMAGES)).mean())

    untrained = trained(chain, IMAGES, BinarySettings(steps=0))
    settings = BinarySettings(steps=60, batch=32, rate=0.5, shift=0)
    student = trained(chain, IMAGES, settings)
    assert divergence(student) < 0.5 * divergence(untrained)
    assert len(student.flips) == 60
    assert 0 < np.mean(student.flips) < 0.2
    assert np.max(student.flips) <= float(student.ever.float().mean()) <= np.sum(student.flips)
    labels = (IMAGES[:, 0, :4].mean((1, 2)) > IMAGES[:, 0, 4:].mean((1, 2))).long()
    taught = trained(chain, IMAGES, settings, labels)
    with torch.no_grad():
        correct = (taught.forward(IMAGES).argmax(dim=1) == labels).float().mean()
        before = (untrained.forward(IMAGES).argmax(dim=1) == labels).float().mean()
    assert float(correct) > max(0.7, float(before))


def test_compression_is_repeatable_and_loads(chain: FloatGraph, tmp_path: Path):
    """Equal inputs give equal bits; the file keeps method, settings and what stays digital."""
    settings = BinarySettings(steps=2, batch=8, bias_init=0.5)
    made = [compress(chain, [IMAGES[:16], IMAGES[16:32]], settings) for _ in range(2)]
    for a, b in zip(made[0].nodes, made[1].nodes, strict=True):
        assert all(np.array_equal(a.tensors[key].words, b.tensors[key].words) for key in a.tensors)
    file.save(made[0], tmp_path / "net.cosil")
    loaded = file.load(tmp_path / "net.cosil")
    assert loaded.provenance["method"] == "binary"
    assert loaded.provenance["settings"]["binariser"] == "recu"
    assert loaded.provenance["notes"] == [
        "first runs digitally, on w4a8", "last runs digitally, on w4a8"
    ]  # fmt: skip


def test_random_offsets_are_uniform_in_deviations(chain: FloatGraph):
    """bias_init = a: offsets of norms before a sign lie in -a..a of their gain; others stay."""
    plain, drawn = (
        trained(chain, IMAGES, BinarySettings(steps=0, bias_init=a)) for a in (0.0, 0.5)
    )
    for name, layer in drawn.layers.items():
        before = plain.layers[name].norm
        if layer.norm is None or before is None:
            continue
        if name == "hidden":
            assert torch.equal(layer.norm.beta, before.beta)
            continue
        ratio = (layer.norm.beta / layer.norm.gamma).detach()
        assert float(ratio.abs().max()) <= 0.5
        assert float(ratio.std()) > 0.1
        assert not torch.equal(layer.norm.beta, before.beta)


def test_a_copy_has_its_own_tensors(chain: FloatGraph):
    """Training a copy leaves the student as it was."""
    student = trained(chain, IMAGES, BinarySettings(steps=0))
    other = student.copy()
    with torch.no_grad():
        for _, parameter in other.parameters():
            parameter.add_(1.0)
    for (_, a), (_, b) in zip(student.parameters(), other.parameters(), strict=True):
        assert not torch.equal(a, b)


def test_the_command_takes_a_binariser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`cosil compress MODEL --method binary --set binariser=ste` packs a binary layer."""
    source = (Path(__file__).parents[1] / "cosil" / "test_compress.py").read_text("utf-8")
    (tmp_path / "binary_layers_model.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    command = "compress binary_layers_model:three_layers --method binary --samples 16 -o net.cosil"
    result = CliRunner().invoke(
        cli, [*command.split(), "--set", "steps=2", "--set", "binariser=ste"]
    )
    assert result.exit_code == 0, result.output
    nodes = {node.name: node for node in file.load(tmp_path / "net.cosil").nodes}
    assert nodes["2"].engine == "xnor"


def test_wrong_use_is_refused(chain: FloatGraph):
    """Errors say what was expected and what was found."""
    with pytest.raises(
        ValueError, match=r"^binary: binariser must be one of 'ste', 'recu'.*not 'x'$"
    ):
        BinarySettings(binariser="x")
    with pytest.raises(ValueError, match=r"^binary: steps must be at least 0, not -1$"):
        BinarySettings(steps=-1)
    with pytest.raises(ValueError, match=r"^binary: rate must be positive, not 0.0$"):
        BinarySettings(rate=0.0)
    with pytest.raises(ValueError, match=r"^binary: at least 2 training inputs are needed, not 0$"):
        compress(chain, [])
    flat = _graph(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)))
    with pytest.raises(ValueError, match=r"^binary: .* has no layer of one group between"):
        compress(flat, [IMAGES])
    assert binary.SETTINGS is BinarySettings

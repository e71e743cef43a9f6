# SPDX-License-Identifier: Apache-2.0
"""Modules of many spellings become float graphs that equal them; the rest is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from algos.lib.export import ExportError, export
from algos.lib.graph import FloatGraph, execute


class Fn(nn.Module):
    """A function as a module, with layers to call."""

    def __init__(self, fn: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self, x)


def image(batch: int = 2, channels: int = 3, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, channels, size, size, generator=generator)


def sequence(batch: int = 2, length: int = 6, width: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(batch + length)
    return torch.randn(batch, length, width, generator=generator)


def same(module: nn.Module, graph: FloatGraph, *inputs: Tensor) -> None:
    for x in inputs:
        expected = module.eval()(x)
        torch.testing.assert_close(execute(graph, x)[0], expected, rtol=1e-4, atol=1e-5)


def ops(graph: FloatGraph) -> list[str]:
    return [node.op for node in graph.nodes]


def random_statistics(norm: nn.Module) -> nn.Module:
    """Give a batch norm statistics and parameters that are not 0 and 1."""
    torch.manual_seed(5)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert isinstance(tensor, Tensor)
        nn.init.uniform_(tensor, 0.3, 2.0)
    return norm


def test_batch_norm_folds_into_its_convolution() -> None:
    """Convolution, batch norm and ReLU become two nodes; groups, stride, dilation, padding stay."""
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, (3, 1), stride=(2, 1), padding=(2, 0), dilation=(2, 1), groups=2)
    module = nn.Sequential(conv, random_statistics(nn.BatchNorm2d(8)), nn.ReLU(inplace=True))
    graph = export(module, (image(channels=4),))
    assert ops(graph) == ["conv2d", "relu"]
    node = graph.nodes[0]
    assert (node.name, node.path) == ("0", "0")
    assert node.attrs == {"stride": [2, 1], "padding": [2, 0], "dilation": [2, 1], "groups": 2}
    same(module, graph, image(channels=4), image(5, 4))


def test_batch_norm_before_a_convolution_stays_exact() -> None:
    """A batch norm that cannot fold becomes a 1 x 1 convolution per channel."""
    torch.manual_seed(0)
    module = nn.Sequential(
        random_statistics(nn.BatchNorm2d(3)), nn.ReLU(), nn.Conv2d(3, 5, 3, padding="same")
    )
    graph = export(module, (image(),))
    assert ops(graph) == ["conv2d", "relu", "conv2d"]
    assert graph.nodes[0].attrs["groups"] == 3
    same(module, graph, image(), image(4))


def test_shared_convolution_is_not_folded() -> None:
    """A convolution that two nodes read keeps its weights when one of them is a batch norm."""
    torch.manual_seed(0)

    def forward(m: Fn, x: Tensor) -> Tensor:
        y = m.conv(x)
        return y + m.norm(y)

    module = Fn(forward, conv=nn.Conv2d(3, 3, 1), norm=random_statistics(nn.BatchNorm2d(3)))
    graph = export(module, (image(),))
    assert torch.equal(graph.node("conv").tensors["weight"], module.conv.weight)
    same(module, graph, image(3))


def test_image_operations() -> None:
    """Pools, option-A shortcut, concat, in-place residual, mean and dropout equal the module."""
    torch.manual_seed(0)

    def forward(m: Fn, x: Tensor) -> Tensor:
        y = F.relu(m.conv(x), inplace=True)
        y += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 1))
        y = torch.cat((F.max_pool2d(y, 3, 1, 1), F.avg_pool2d(y, 3, 1, padding=1)), dim=1)
        y = F.dropout(F.adaptive_avg_pool2d(y * 0.5 - y / 4.0, (2, 4)), 0.5, m.training)
        return m.head(torch.cat((y.mean((2, 3)), y.flatten(1), y.view(x.size(0), -1)), 1))

    module = Fn(forward, conv=nn.Conv2d(3, 6, 3, 2, 1), head=nn.Linear(12 + 2 * 96, 4))
    graph = export(module, (image(1),))
    assert {"pad_channels", "slice", "concat", "avgpool", "maxpool", "scale"} <= set(ops(graph))
    same(module, graph, image(2), image(3))


def rms_by_hand(m: Fn, x: Tensor) -> Tensor:
    return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-3)).type_as(
        x
    ) * m.norm.weight


def rms_by_division(m: Fn, x: Tensor) -> Tensor:
    return m.norm.weight * (x / ((x * x).mean(dim=-1, keepdim=True) + 1e-3).sqrt())


def rms_plus_one(m: Fn, x: Tensor) -> Tensor:
    y = x * torch.pow(x.square().mean(-1, True) + 1e-3, -0.5)
    return y * (1.0 + m.norm.weight)


def layer_by_hand(m: Fn, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    var = centred.pow(2).mean(-1, keepdim=True)
    return centred / torch.sqrt(var + 1e-3) * m.norm.weight + m.norm.bias


def layer_by_var(m: Fn, x: Tensor) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return m.norm.weight * (x - mean) * torch.rsqrt(var + 1e-3) + m.norm.bias


@pytest.mark.parametrize(
    ("fn", "op"),
    [
        (rms_by_hand, "rmsnorm"),
        (rms_by_division, "rmsnorm"),
        (rms_plus_one, "rmsnorm"),
        (lambda m, x: F.rms_norm(x, (10,), m.norm.weight, 1e-3), "rmsnorm"),
        (layer_by_hand, "layernorm"),
        (layer_by_var, "layernorm"),
        (lambda m, x: F.layer_norm(x, (10,), m.norm.weight, m.norm.bias, 1e-3), "layernorm"),
    ],
)
def test_norms_by_hand(fn: Callable[[Fn, Tensor], Tensor], op: str) -> None:
    """Norms, written out or called, become one node with exact parameters."""
    norm = nn.LayerNorm(10)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.5, 0.5)
    module = Fn(lambda m, x: m.head(fn(m, m.stem(x))), norm=norm, stem=nn.Linear(10, 10),
                head=nn.Linear(10, 3))  # fmt: skip
    graph = export(module, (sequence(),))
    assert ops(graph) == ["linear", op, "linear"]
    node = graph.nodes[1]
    assert node.attrs["eps"] == pytest.approx(1e-3)
    expected = norm.weight + 1 if fn is rms_plus_one else norm.weight
    assert torch.equal(node.tensors["gamma"], expected)
    if op == "layernorm":
        assert torch.equal(node.tensors["beta"], norm.bias)
    same(module, graph, sequence() * 1e-2, sequence(3, 4) * 30)


@pytest.mark.parametrize(
    ("fn", "op", "attrs"),
    [
        (F.silu, "silu", {}),
        (lambda x: x * torch.sigmoid(x), "silu", {}),
        (lambda x: x / (1 + torch.exp(-x)), "silu", {}),
        (F.gelu, "gelu", {"approximate": "none"}),
        (lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), "gelu", {"approximate": "none"}),
        (lambda x: F.gelu(x, approximate="tanh"), "gelu", {"approximate": "tanh"}),
        (
            lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x.pow(3)))),
            "gelu",
            {"approximate": "tanh"},
        ),
    ],
)
def test_activations_by_hand(
    fn: Callable[[Tensor], Tensor], op: str, attrs: dict[str, str]
) -> None:
    """Activations, written out or called, become one node; a gate multiplies two values."""
    module = Fn(
        lambda m, x: m.down(fn(m.gate(x)) * m.up(x)),
        gate=nn.Linear(10, 7), up=nn.Linear(10, 7), down=nn.Linear(7, 10),
    )  # fmt: skip
    graph = export(module, (sequence(),))
    assert sorted(ops(graph)) == sorted(["linear", op, "linear", "mul", "linear"])
    assert dict(graph.ops(op)[0].attrs) == attrs
    same(module, graph, sequence() * 4)


def test_constants_move_into_the_layer_before() -> None:
    """Bias and gain per channel after a linear layer fold; a matmul with a constant is a layer."""

    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(10, 5))
            self.gain = nn.Parameter(torch.rand(5) + 0.5)
            self.bias = nn.Parameter(torch.randn(5))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, (x[:, -1] @ self.weight) * self.gain + self.bias,
                               torch.eye(5))  # fmt: skip

    module = Folded()
    graph = export(module, (sequence(),))
    assert ops(graph) == ["slice", "reshape", "linear", "linear"]
    same(module, graph, sequence(5, 3))


def test_learned_positions_are_an_embedding() -> None:
    """A position table, sliced or looked up, becomes an embedding by position."""

    class Positions(nn.Module):
        def __init__(self, lookup: bool) -> None:
            super().__init__()
            self.tok, self.pos = nn.Embedding(9, 4), nn.Embedding(12, 4)
            self.lookup = lookup

        def forward(self, ids: Tensor) -> Tensor:
            length = ids.shape[1]
            if self.lookup:
                at = torch.arange(length).unsqueeze(0).expand_as(ids)
                return self.pos(at) + self.tok(ids)
            return self.tok(ids) + self.pos.weight[:length]

    ids = torch.arange(24).reshape(2, 12) % 9
    for lookup in (True, False):
        module = Positions(lookup)
        graph = export(module, (ids,))
        assert sorted(ops(graph)) == ["add", "embedding", "embedding"]
        (node,) = (n for n in graph.ops("embedding") if n.attrs["positions"])
        assert torch.equal(node.tensors["table"], module.pos.weight)
        same(module, graph, ids[:, :5], ids[:1])


def inner(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(10, 10), nn.Sequential(nn.Identity(), layer))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (inner(nn.Sigmoid()), "aten.sigmoid in module '1.1'"),
        (inner(nn.ReLU6()), "aten.hardtanh in module '1.1'"),
        (inner(nn.Softmax(-1)), "aten.softmax in module '1.1'"),
        (inner(nn.LSTM(10, 10, batch_first=True)), "aten.lstm in module '1.1'"),
        (Fn(lambda m, x: torch.cumsum(m.lin(x), 1), lin=nn.Linear(10, 10)),
         "aten.cumsum at the top of the module (test_export.py:"),
        (Fn(lambda m, x: m.lin(x) / x, lin=nn.Linear(10, 10)), "aten.div at the top"),
        (Fn(lambda m, x: m.lin(x)[:1], lin=nn.Linear(10, 10)), "aten.slice at the top"),
        (Fn(lambda m, x: m.lin(x) + torch.ones(10, 1) @ torch.ones(1, 10)[:, :1],
            lin=nn.Linear(10, 10)), "aten.add at the top"),
    ],
)  # fmt: skip
def test_unsupported_operator_is_named(module: nn.Module, message: str) -> None:
    """The refusal names the operator, the module or line that calls it, and a way out."""
    x = sequence(2, 10, 10)
    with pytest.raises(ExportError, match=re.escape(message)) as error:
        export(module, (x,))
    assert "; " in str(error.value)


def test_fixed_batch_is_refused() -> None:
    """A module that writes the example's batch into a shape is no network for other batches."""
    module = Fn(lambda m, x: m.lin(x.reshape(2, -1)), lin=nn.Linear(192, 3))
    with pytest.raises(ExportError, match=r"differs from the module on inputs of \(3, 3, 8, 8\)"):
        export(module, (image(),))


def test_data_dependent_control_flow_is_refused() -> None:
    """A branch on values cannot be recorded, and torch's reason is passed on in one line."""
    module = Fn(lambda m, x: m.lin(x) if x.sum() > 0 else x, lin=nn.Linear(10, 10))
    with pytest.raises(ExportError, match=r"^torch.export cannot record the module: .+$"):
        export(module, (sequence(),))


def test_state_is_refused() -> None:
    """A module that writes a buffer in forward is refused."""

    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return x * 2

    with pytest.raises(ExportError, match=r"aten.add_ .*it writes the parameter or buffer"):
        export(Counter(), (sequence(),))


def test_arguments_are_checked() -> None:
    """Wrong kinds are told apart from wrong shapes."""
    with pytest.raises(TypeError, match=r"^export: module must be an nn.Module, not 3$"):
        export(3, (image(),))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="example_inputs must be a tuple of tensors"):
        export(nn.ReLU(), image())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^export: an example input must be a tensor, not 1$"):
        export(nn.ReLU(), (1,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"not shape \(3,\)$"):
        export(nn.ReLU(), (torch.ones(3),))


def test_module_is_left_alone() -> None:
    """Export changes neither the module's mode nor its weights nor their type."""
    module = nn.Sequential(nn.Linear(10, 4), nn.BatchNorm1d(4)).double().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    graph = export(module, (torch.randn(3, 10),))
    assert module.training
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert ops(graph) == ["linear"]
    assert graph.nodes[0].tensors["weight"].dtype == torch.float32

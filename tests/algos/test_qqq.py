# SPDX-License-Identifier: Apache-2.0
"""QQQ as a whole: what it guarantees of the packed network, and that it beats rounding."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from algos import rtn
from algos.lib.calibrate import ActivationSettings, calibrate
from algos.lib.emit import bits_per_weight
from algos.lib.export import export
from algos.lib.gptq import Hessian
from algos.lib.graph import FloatGraph, execute
from algos.lib.metrics import kl_divergence
from algos.lib.quantise import QuantisedWeight, absmax_grid, round_to_grid, with_scales
from algos.models.llama import Llama, LlamaConfig
from algos.qqq import QqqSettings, compress
from algos.reference.network import Reference
from cosil.packed import int4
from cosil.packed.network import PackedNetwork

torch.set_num_threads(1)

VOCAB = 20
IDS = torch.from_numpy(np.random.default_rng(3).integers(0, VOCAB, (24, 16)))


@pytest.fixture(scope="module")
def llama() -> FloatGraph:
    """Return an untrained Llama whose inputs are correlated, so that compensation has a task."""
    torch.manual_seed(0)
    module = Llama(LlamaConfig(32, 48, 2, 4, 2, VOCAB, 16))
    with torch.no_grad():
        table = module.tok_embeddings.weight
        table.copy_(torch.randn(VOCAB, 6) @ torch.randn(6, 32))
    return export(module, (IDS[:2],), name="llama")


@pytest.fixture(scope="module")
def convnet() -> tuple[FloatGraph, torch.Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, groups=2),
        nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    images = F.interpolate(torch.randn(64, 3, 3, 3), size=(10, 10), mode="bilinear")
    return export(module, (images[:2],), name="convnet"), images


def _logits(network: PackedNetwork, inputs: torch.Tensor) -> torch.Tensor:
    (codes,) = Reference(network).run(inputs).values()
    scale = network.nodes[-1].attrs.get("scale", 1.0)
    return codes.double() * scale


def _divergence(network: PackedNetwork, graph: FloatGraph, inputs: torch.Tensor) -> float:
    return float(kl_divergence(execute(graph, inputs)[0], _logits(network, inputs)).mean())


@pytest.mark.parametrize("scales", ["channel", "group"])
@pytest.mark.parametrize(
    "options",
    [{}, {"rotation": "none", "smoothing": True, "clip": "none"}, {"clip": "hessian"}],
    ids=["repository", "paper", "hessian clip"],
)
def test_a_language_model_keeps_more_than_under_rounding(
    llama: FloatGraph, scales: str, options: dict
):
    """The divergence from the float model is below that of rounding to nearest."""
    rounded = rtn.compress(llama, [], rtn.RtnSettings(scales, 16))
    settings = QqqSettings(scales=scales, group_size=16, **options)
    network = compress(llama, [IDS[:8], IDS[8:16]], settings)
    held_out = IDS[16:]
    assert _divergence(network, llama, held_out) < _divergence(rounded, llama, held_out)
    assert network.provenance["notes"] == []
    assert {n.name for n in network.nodes if n.op == "linear"} == {
        n.name for n in llama.ops("linear")
    }


@pytest.mark.parametrize("scales", ["channel", "group"])
@pytest.mark.parametrize("correction", ["none", "output"])
def test_a_convolutional_network_keeps_more_than_under_rounding(
    convnet: tuple[FloatGraph, torch.Tensor], scales: str, correction: str
):
    """The divergence falls, grouped convolutions and a group that does not divide K included."""
    graph, images = convnet
    rounded = rtn.compress(graph, [images[:48]], rtn.RtnSettings(scales, 20))
    settings = QqqSettings(scales=scales, group_size=20, bias_correction=correction)
    network = compress(graph, [images[:24], images[24:48]], settings)
    assert _divergence(network, graph, images[48:]) < _divergence(rounded, graph, images[48:])


def test_bias_correction_matches_the_mean_logits(convnet: tuple[FloatGraph, torch.Tensor]):
    """On calibration data each logit's mean equals the float network's up to the code's size."""
    graph, images = convnet
    network = compress(graph, [images], QqqSettings(bias_correction="output"))
    wanted = execute(graph, images)[0].mean(dim=0)
    corrected = _logits(network, images).mean(dim=0)
    plain = _logits(compress(graph, [images], QqqSettings()), images).mean(dim=0)
    assert float((corrected - wanted).abs().max()) < 0.2 * float((plain - wanted).abs().max())


def test_equal_seeds_give_equal_bits_and_others_do_not(llama: FloatGraph):
    """Codes and scales depend on graph, data and settings only; the seed moves the rotation."""
    runs = [compress(llama, [IDS[:8]], QqqSettings(seed=seed)) for seed in (1, 1, 2)]
    words = [np.concatenate([n.tensors["weight"].words.ravel() for n in run.nodes
                             if n.op == "linear"]) for run in runs]  # fmt: skip
    assert np.array_equal(words[0], words[1])
    assert not np.array_equal(words[0], words[2])
    assert runs[0].provenance == runs[1].provenance
    assert runs[0].provenance["settings"]["seed"] == 1


def test_the_default_group_falls_back_to_one_short_group(llama: FloatGraph):
    """K = 32 and 48 are below 128: one group scale per row, codes of -8..7, no padding group."""
    network = compress(llama, [IDS[:8]], QqqSettings(scales="group"))
    for node in network.nodes:
        if node.op == "linear":
            packed = node.tensors["weight"]
            assert packed.scales["group"].shape == (1, packed.shape[0])
            assert packed.params["group_size"] == packed.shape[1]
            assert int4.decode(packed).min() >= -8
    assert 4.0 < bits_per_weight(network) < 6.0


def test_each_layer_sees_what_the_quantised_ones_before_it_give(llama: FloatGraph):
    """The Hessian of the second block is that of a run in which the first block is quantised."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Spy:
        needs_hessian = True

        def __call__(self, weight: torch.Tensor, hessian: Hessian | None) -> QuantisedWeight:
            assert hessian is not None
            seen.append((weight, hessian.matrix))
            grid = absmax_grid(weight, 0)
            # Codes of one layer are all zero, which every later layer must notice.
            codes = round_to_grid(weight, grid)
            return with_scales(codes * (len(seen) != 3), grid)

    calibrate(llama, [IDS[:8]], Spy(), ActivationSettings())
    names = [node.name for node in llama.ops("linear")]
    values = llama.node(names[2])
    output = llama.node(names[3])
    assert torch.equal(seen[2][0], values.tensors["weight"])
    assert output.inputs[0] == next(n.name for n in llama.ops("attention"))
    assert float(seen[3][1].abs().max()) == 0.0
    assert float(seen[4][1].abs().max()) > 0.0


def test_wrong_settings_are_refused():
    """Each message names the setting, the legal values and the given one."""
    with pytest.raises(
        ValueError, match=r"^qqq: clip must be one of 'none', 'mse', 'hessian', not 'max'$"
    ):
        QqqSettings(clip="max")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^qqq: damping must be positive, not 0.0$"):
        QqqSettings(damping=0.0)
    with pytest.raises(ValueError, match=r"^qqq: block must be at least 1, not 0$"):
        QqqSettings(block=0)


def test_missing_data_is_refused(llama: FloatGraph):
    """QQQ cannot do without calibration data."""
    with pytest.raises(ValueError, match=r"^qqq: calibration data is needed, none was given; "):
        compress(llama, [])

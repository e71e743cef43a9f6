# SPDX-License-Identifier: Apache-2.0
"""`cosil compress`: settings, output and errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from algos.data.images import Images
from algos.lib.export import export
from algos.models.tasks import ImageTask
from algos.qqq import QqqSettings
from algos.rtn import RtnSettings
from cosil.cli import cli
from cosil.cli.compress import compress_measured, parse_options, settings_of
from cosil.errors import CosilError
from cosil.packed import file

torch.set_num_threads(1)


def tiny() -> tuple[nn.Module, ImageTask]:
    """Return an untrained network and random images, as a user's own callable would."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    rng = np.random.default_rng(0)
    parts = [
        Images(rng.integers(0, 256, (n, 1, 6, 6), dtype=np.uint8), rng.integers(0, 3, n))
        for n in (20, 10)
    ]
    return module, ImageTask(*parts, sources=("twenty", "ten"))


def three_layers() -> tuple[nn.Module, ImageTask]:
    """Return an untrained network with a layer between its first and its last."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    return module, tiny()[1]


def test_settings_are_read_as_the_type_of_their_default():
    """Strings become floats, ints and bools; other values are passed on."""
    settings = settings_of("qqq", {"damping": "0.02", "smoothing": "true", "group_size": 32})
    assert settings == QqqSettings(damping=0.02, smoothing=True, group_size=32)
    assert settings_of("rtn", {}) == RtnSettings()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dampin": "1"}, r"^qqq has no setting 'dampin'$"),
        ({"smoothing": "yes"}, r"^setting smoothing must be true or false, not 'yes'$"),
        ({"damping": "much"}, r"^setting damping must be of type float, not 'much'$"),
        ({"clip": "max"}, r"^qqq: clip must be one of 'none', 'mse', 'hessian', not 'max'$"),
    ],
)
def test_wrong_settings_are_one_line(values: dict[str, str], message: str):
    """Each message names the setting and the value."""
    with pytest.raises(CosilError, match=message):
        settings_of("qqq", values)


def test_options_are_name_and_value():
    """The value may hold an equals sign; without a name or a sign it is refused."""
    assert parse_options(("a=1", "b=c=d")) == {"a": "1", "b": "c=d"}
    for wrong in ("a", "=1"):
        with pytest.raises(CosilError, match=r"^--set takes NAME=VALUE, not"):
            parse_options((wrong,))


def test_the_metric_before_and_after_is_in_the_record():
    """Provenance holds data, metric, both values and the bits per weight."""
    module, task = tiny()
    graph = export(module, task.example_inputs(), "tiny")
    network = compress_measured(graph, task, "rtn", RtnSettings(), 8)
    record = network.provenance
    expected = [
        float((module(task.inputs(images)).argmax(1).numpy() == images.labels).mean())
        for images in (task.evaluation_images,)
    ]
    assert [record["before"]] == expected
    assert 0.0 <= record["after"] <= 1.0
    assert record["data"] == {"calibration": "twenty", "evaluation": "ten"}
    assert record["metric"] == "accuracy"
    # 9 inputs take two words of 32 bits, 64 inputs eight.
    assert record["bits_per_weight"] == (4 * 64 + 3 * 256) / (4 * 9 + 3 * 64)


def test_the_command_compresses_a_callable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """MODEL may be module:callable; --json gives the documented keys and the file loads."""
    source = Path(__file__).read_text(encoding="utf-8")
    (tmp_path / "own_network.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    arguments = "compress own_network:tiny --method qqq --samples 8 -o tiny.cosil --json".split()
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    record = json.loads(result.output)
    assert set(record) == {"method", "metric", "before", "after", "bits_per_weight"}
    assert file.load(tmp_path / "tiny.cosil").provenance["method"] == "qqq"


def test_a_method_without_scales_is_named_by_its_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """pim_qat takes its own settings from --set, and has no per-channel or group scales to show."""
    source = Path(__file__).read_text(encoding="utf-8")
    (tmp_path / "own_layers.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    command = "compress own_layers:three_layers --method pim_qat --samples 16 -o net.cosil"
    result = CliRunner().invoke(cli, [*command.split(), "--set", "steps=2", "--set", "adc_bits=5"])
    assert result.exit_code == 0, result.output
    assert "per layer" in result.output
    assert "note: 0 runs digitally, on w4a8" in result.output
    nodes = {node.name: node for node in file.load(tmp_path / "net.cosil").nodes}
    assert [node.engine for node in nodes.values()].count("pim") == 1
    assert nodes["2"].attrs["adc_bits"] == 5
    refused = CliRunner().invoke(cli, [*command.split(), "--scales", "group"])
    assert refused.exit_code == 2
    assert "pim_qat has no setting 'scales'" in refused.output

# SPDX-License-Identifier: Apache-2.0
"""The package that `cosil verilog` writes: it lints, and its own smoke test passes and can fail."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cosil.cli import cli
from cosil.engines.attention import AttentionSpec
from cosil.engines.pim import PimSpec
from cosil.engines.topk import TopkSpec
from cosil.engines.w4a8 import W4A8Spec
from cosil.engines.xnor import XnorSpec
from cosil.errors import CosilError, ToolFailedError, ToolMissingError
from cosil.registry import ENGINES, engine, engine_of
from cosil.synth.cells import count_cells
from cosil.synth.fmax import place_and_route
from cosil.synth.package import LINT_WAIVERS, lint, write_package
from cosil.synth.parts import parts_of
from verif.lib.toolchain import available_simulators, find_simulator

SPECS = {
    "os-channel-fp16": W4A8Spec(array_rows=2, array_cols=3),
    "ws-group-fixed": W4A8Spec(
        array_rows=2, array_cols=2, dataflow="ws", scales="group", epilogue="fixed", acc_rows=16
    ),
    "topk-radix": TopkSpec(lanes=2, key_bits=5, signed=True, max_n=12, digit_bits=3, buffers=2),
    "topk-quick": TopkSpec("quick_select", lanes=4, key_bits=6, max_n=20),
    "attention": AttentionSpec(
        head_dim=8, multipliers=16, max_tokens=16, max_heads=2, topk="quick_select", fetch_beats=2
    ),
    "pim": PimSpec(
        rows=6,
        columns=8,
        groups=2,
        weight_bits=2,
        activation_bits=2,
        adc_bits=4,
        mux=4,
        row_cycles=2,
        noise_bits=3,
        epilogue_lanes=3,
    ),
    "xnor": XnorSpec(
        pe=3, simd=5, weights="ternary", max_inputs=12, max_outputs=7, border_classes=3
    ),
}
C_WORDS = {
    "w4a8": (16, ".m = 1, .flags = COSIL_W4A8_FLAG_RELU"),
    "topk": (2, ".n = COSIL_TOPK_MAX_N, .k = 1"),
    "attention": (16, ".n = COSIL_ATTENTION_MAX_TOKENS, .values = 0"),
    "pim": (8, ".rows = COSIL_PIM_ROWS, .flags = COSIL_PIM_FLAG_WEIGHTS"),
    "xnor": (8, ".k = COSIL_XNOR_MAX_INPUTS, .flags = COSIL_XNOR_FLAG_BASE"),
}
"""Words of a job, and an initialiser of one."""


@pytest.fixture(scope="module", params=SPECS)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package of one engine."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "spec.toml").write_text(SPECS[request.param].to_toml(), encoding="utf-8")
    command = ["verilog", str(folder / "spec.toml"), "-o", str(folder / "out"), "--no-cells"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    return folder / "out"


def manifest_of(package: Path) -> dict[str, Any]:
    return json.loads((package / "manifest.json").read_text(encoding="utf-8"))


def smoke(package: Path) -> subprocess.CompletedProcess[str]:
    """Run the package's own test, with nothing of cosil on its path."""
    simulators = {simulator.name: simulator for simulator in available_simulators()}
    if not simulators:
        pytest.skip("no HDL simulator")
    simulator = simulators.get("icarus") or simulators["verilator"]
    env = simulator.environ()
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env.pop("PYTHONPATH", None)
    return subprocess.run(
        ["make", f"SIM={simulator.name}", "COCOTB_ANSI_OUTPUT=0"],
        cwd=package, env=env, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


def verdict(package: Path) -> str:
    return (package / "results.xml").read_text(encoding="utf-8")


@pytest.mark.cosim
def test_smoke_test_passes_and_can_fail(package: Path) -> None:
    """The generated file alone gives the expected bits and cycles; a wrong one is noticed."""
    done = smoke(package)
    assert "<failure" not in verdict(package), done.stdout + done.stderr
    assert "as_simulated" in verdict(package)
    vectors = json.loads((package / "vectors.json").read_text(encoding="utf-8"))
    # Of each engine, one package has wrong cycles and one a wrong bit.
    if manifest_of(package)["spec"].items() & {"dataflow": "ws", "architecture": "radix"}.items():
        wrong = {"cycles": vectors["cycles"] + 1}
    else:
        name, (first, *others) = next(iter(vectors["outputs"].items()))
        wrong = {"outputs": {**vectors["outputs"], name: [[0, first[1] ^ 1], *others]}}
    (package / "vectors.json").write_text(json.dumps({**vectors, **wrong}), encoding="utf-8")
    smoke(package)
    assert "<failure" in verdict(package), wrong.keys()
    (package / "vectors.json").write_text(json.dumps(vectors) + "\n", encoding="utf-8")


def test_manifest_describes_the_files(package: Path) -> None:
    """Each digest is that of its file, and the spec can be read back."""
    manifest = manifest_of(package)
    files = {path.name for path in package.iterdir() if path.is_file()}
    assert {*manifest["sha256"], "manifest.json"} <= files
    for file, digest in manifest["sha256"].items():
        assert hashlib.sha256((package / file).read_bytes()).hexdigest() == digest
    spec = engine(manifest["engine"]).load("spec")
    assert spec.from_toml(package / "spec.toml") == spec.from_dict(manifest["spec"])
    if manifest["lint"] is not None:
        assert set(manifest["lint"]["waived"]) <= set(LINT_WAIVERS)


def test_ports_are_axi4_stream(package: Path) -> None:
    """Every stream has tdata, tvalid and tready, and the clock its AXI name."""
    manifest = manifest_of(package)
    top = manifest["top"]
    header = (package / f"{top}.v").read_text(encoding="utf-8").split(f"module {top}(")[1]
    ports = {name.strip() for name in header.split(");")[0].split(",")}
    expected = {"aclk", "aresetn"} | {
        f"{prefix}_{signal}"
        for prefix, signals in manifest["streams"].items()
        for signal in (*signals, "tvalid", "tready")
    }
    assert expected == ports
    assert all(bits % 8 == 0 for s in manifest["streams"].values() for bits in [s["tdata"]])


def test_header_is_c(package: Path, tmp_path: Path) -> None:
    """The descriptor is the engine's words without padding, and constants have their names."""
    manifest = manifest_of(package)
    top, words = manifest["top"], C_WORDS[manifest["engine"]]
    source = tmp_path / "check.c"
    source.write_text(
        f'#include "{top}.h"\n'
        f'_Static_assert(sizeof({top}_job_t) == 4 * {words[0]}, "words");\n'
        f"const {top}_job_t job = {{{words[1]}}};\n"
    )
    command = ["gcc", "-std=c11", "-Wall", "-Werror", "-fsyntax-only", f"-I{package}", str(source)]
    subprocess.run(command, check=True)


def test_lint_reports_what_no_waiver_explains(package: Path, tmp_path: Path) -> None:
    """A signal that nothing drives is not among the waivers."""
    try:
        find_simulator("verilator")
    except ToolMissingError as error:
        pytest.skip(str(error))
    (tmp_path / "lint.vlt").write_bytes((package / "lint.vlt").read_bytes())
    (tmp_path / "bad.v").write_text("module bad(output o); wire w; assign o = w; endmodule\n")
    with pytest.raises(ToolFailedError, match=r"^verilator -Wall finds faults in bad\.v:"):
        lint(tmp_path, "bad")


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_can_be_packaged(name: str) -> None:
    """Each registered engine has its part of a package, and one is built here."""
    assert name in [engine_of(spec).name for spec in SPECS.values()]
    parts = parts_of(name)
    assert parts.title
    assert parts.job_stream in parts.streams(engine(name).load("spec")())


def refused(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["verilog", *arguments, "--no-cells"])
    assert result.exit_code == 2, result.output
    return result


def test_wrong_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """A folder of somebody else's, a bad name or a bad spec stops the command in one line."""
    spec = tmp_path / "spec.toml"
    spec.write_text('engine = "w4a8"\narray_rows = 65\n')
    out = str(tmp_path / "out")
    assert "array_rows must be in 1..64, not 65" in refused(str(spec), "-o", out).stderr
    spec.write_text("engine = \n")
    assert "is not TOML" in refused(str(spec), "-o", out).stderr
    assert not Path(out).exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(CosilError, match=r"mine exists and is no package written by cosil$"):
        write_package(W4A8Spec(), tmp_path / "mine")
    with pytest.raises(CosilError, match=r"^the top module's name must be a Verilog identifier"):
        write_package(W4A8Spec(), tmp_path / "new", name="4x4")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


_PRODUCT = """
module top(input clk, input signed [17:0] a, input signed [17:0] b, output reg [35:0] o);
  always @(posedge clk) o <= a * b;
endmodule
"""
_ACCUMULATOR = """
module top(input clk, input signed [7:0] a, input signed [7:0] b, output reg [31:0] o);
  always @(posedge clk) o <= o + a * b;
endmodule
"""
_XOR = "module top(input [3:0] a, input [3:0] b, output [3:0] o); assign o = a ^ b; endmodule\n"
_MEMORY = """
module top(input clk, input we, input [4:0] addr, input [7:0] i, output reg [7:0] o);
  reg [7:0] words [31:0];
  always @(posedge clk) begin
    if (we) words[addr] <= i;
    o <= words[addr];
  end
endmodule
"""


@pytest.mark.synth
def test_cells_of_designs_whose_cells_are_known() -> None:
    """A product of 18-bit numbers is one multiplier block; four XORs are four gates."""
    product = count_cells(_PRODUCT, "top", "ecp5")
    assert product.multipliers == 1
    assert {"$_XOR_": 4} == count_cells(_XOR, "top").cells
    memory = count_cells(_MEMORY, "top")
    assert memory.memory_bits == 256
    assert sum(count for cell, count in memory.cells.items() if "DFF" in cell) <= 16


@pytest.mark.synth
def test_yosys_errors_are_told() -> None:
    """Text that is no Verilog ends in a message with Yosys' log."""
    with pytest.raises(ToolFailedError, match=r"(?s)^yosys failed on top:\n.*syntax error"):
        count_cells("module top(;", "top")
    with pytest.raises(ValueError, match=r"^target must be one of gates, ecp5, not 'asic'$"):
        count_cells(_XOR, "top", "asic")


@pytest.mark.synth
@pytest.mark.slow
def test_place_and_route_reports_a_clock() -> None:
    """A multiply-accumulate reaches more than 50 MHz, with as many multipliers as counted."""
    try:
        routed = place_and_route(_ACCUMULATOR, "top")
    except ToolMissingError as error:
        pytest.skip(str(error))
    assert routed.fmax_mhz > 50
    assert routed.used.get("MULT18X18D", 0) == routed.counts.multipliers

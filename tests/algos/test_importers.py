# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are read as data: nothing in them runs, and none asks for more than it holds."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import pytest
import torch

from algos.importers.llama2c import Tokenizer, load_llama, load_tokenizer
from algos.importers.torch_checkpoint import (
    CheckpointError,
    load_gpt,
    load_resnet,
    read_checkpoint,
)
from algos.models.gpt import Gpt, GptConfig
from algos.models.resnet import CifarResNet


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_resnet_round_trip(tmp_path: Path, legacy: bool) -> None:
    """A state_dict saved under DataParallel's names, in either format, gives the same network."""
    torch.manual_seed(0)
    model = CifarResNet(2).eval()
    state = {f"module.{k}": v for k, v in model.state_dict().items()}
    path = tmp_path / "net.th"
    torch.save(
        {"state_dict": state, "best_prec1": 91.7}, path, _use_new_zipfile_serialization=not legacy
    )
    loaded = load_resnet(path)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), model(x))
    del state["module.conv1.weight"]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"^net\.th: tensors missing or not known: conv1"):
        load_resnet(path)


def test_code_is_not_run(tmp_path: Path) -> None:
    """A pickle that would run code is refused, and the code does not run."""
    for name, save in (("a.pt", torch.save), ("b.pt", lambda x, p: p.write_bytes(pickle.dumps(x)))):
        save({"state_dict": Evil(tmp_path / "ran")}, tmp_path / name)
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / name)
        assert not (tmp_path / "ran").exists()


def test_stretched_and_unfinished_tensors_are_refused(tmp_path: Path) -> None:
    """A view of huge shape on few bytes, NaN, a cut file and a large file are refused."""
    path = tmp_path / "x.pt"
    cases = [
        ({"a": torch.zeros(1).expand(1 << 40)}, "more than the file holds"),
        ({"a": torch.tensor([float("nan")])}, "holds NaN or infinity"),
        ([1, 2], "it must hold a dict, not 'list'"),
    ]
    for value, message in cases:
        torch.save(value, path)
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(path)
    torch.save({"a": torch.zeros(100)}, path)
    blob = path.read_bytes()
    for cut in range(0, len(blob), 97):
        path.write_bytes(blob[:cut])
        with pytest.raises(CheckpointError, match=r"^x\.pt: "):
            read_checkpoint(path)
    path.write_bytes(blob)
    with pytest.raises(CheckpointError, match=f"at most 9 bytes are read, not {len(blob)}"):
        read_checkpoint(path, max_bytes=9)


def test_gpt_round_trip(tmp_path: Path) -> None:
    """A character GPT comes back with its alphabet; a config that lies is refused."""
    torch.manual_seed(0)
    model = Gpt(GptConfig(8, 1, 2, 3, 6)).eval()
    config = {"D": 8, "L": 1, "H": 2, "T": 6, "V": 3, "act": "relu", "norm": "rmsnorm eps1e-5",
              "pos": "learned"}  # fmt: skip
    path = tmp_path / "gpt.pt"
    state = model.state_dict()
    torch.save({"state_dict": state, "chars": "abc", "config": config}, path)
    loaded, chars = load_gpt(path)
    ids = torch.tensor([[0, 1, 2, 2]])
    assert chars == "abc"
    assert torch.equal(loaded(ids), model(ids))
    for change in ({"D": 4096}, {"L": 60000}, {"H": 3}, {"act": "gelu"}, {"V": -1}, {"T": "6"}):
        torch.save({"state_dict": state, "chars": "abc", "config": config | change}, path)
        with pytest.raises(CheckpointError, match=r"^gpt\.pt: "):
            load_gpt(path)


def llama_file(path: Path, shared: bool = True) -> list[int]:
    sizes = [8, 12, 1, 2, 1, 5 if shared else -5, 6]
    count = 5 * 8 + 8 + 64 + 32 + 32 + 64 + 8 + 3 * 96 + 8 + 2 * 6 * 2 + (0 if shared else 40)
    values = torch.randn(count, generator=torch.Generator().manual_seed(0)).tolist()
    path.write_bytes(struct.pack(f"<7i{count}f", *sizes, *values))
    return sizes


def test_llama_layout(tmp_path: Path) -> None:
    """Tensors lie in the file in the order of llama2.c; the classifier is shared if vocab > 0."""
    path = tmp_path / "m.bin"
    for shared in (True, False):
        llama_file(path, shared)
        model = load_llama(path)
        floats = torch.tensor(struct.unpack("<40f", path.read_bytes()[28 : 28 + 160]))
        assert torch.equal(model.tok_embeddings.weight, floats.reshape(5, 8))
        assert (model.output.weight is model.tok_embeddings.weight) == shared
        wq = struct.unpack("<64f", path.read_bytes()[28 + 192 : 28 + 448])
        assert torch.equal(model.layers[0].attention.wq.weight, torch.tensor(wq).reshape(8, 8))
        assert model(torch.tensor([[1, 2, 3]])).shape == (1, 3, 5)


def test_hostile_llama_is_refused(tmp_path: Path) -> None:
    """Sizes that do not give the file's length are refused before memory is used."""
    path = tmp_path / "m.bin"
    sizes = llama_file(path)
    blob = path.read_bytes()
    for at, value in ((0, 1 << 30), (2, 1 << 20), (3, 3), (4, 0), (5, -(2**31)), (6, 7)):
        changed = [*sizes[:at], value, *sizes[at + 1 :]]
        path.write_bytes(struct.pack("<7i", *changed) + blob[28:])
        with pytest.raises(CheckpointError, match=r"^m\.bin: the sizes .*"):
            load_llama(path)
    for bad in (blob[:-1], blob[:27], b"", blob[:28] + b"\xff" * (len(blob) - 28)):
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"^m\.bin: "):
            load_llama(path)


PIECES = [b"<unk>", b"<s>", b"</s>", *(f"<0x{i:02X}>".encode() for i in range(256)),
          b" ", b"a", b"b", b"ab", b" ab", b"ba"]  # fmt: skip
SCORES = [0.0] * 262 + [-2.0, -3.0, -1.0]


def test_tokenizer_merges_by_score() -> None:
    """The pair with the best score merges first; bytes stand for unknown characters."""
    tokenizer = Tokenizer(tuple(PIECES), tuple(SCORES))
    assert tokenizer.encode("ab") == [1, 263]
    # "ba" (-1) is merged before "ab" (-2).
    assert tokenizer.encode("aba", bos=False) == [259, 260, 264]
    assert tokenizer.encode("é", bos=False) == [259, 0xC3 + 3, 0xA9 + 3]
    assert tokenizer.encode("") == [1]
    for text in ("abba é", "a", "日本"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    with pytest.raises(ValueError, match=r"^a token number must be in 0\.\.264, not 265$"):
        tokenizer.decode([265])


def test_tokenizer_file(tmp_path: Path) -> None:
    """A tokenizer file round-trips; cuts and lengths past its end are refused."""
    path = tmp_path / "t.bin"
    body = b"".join(
        struct.pack("<fi", score, len(piece)) + piece
        for score, piece in zip(SCORES, PIECES, strict=True)
    )
    path.write_bytes(struct.pack("<i", 6) + body)
    assert load_tokenizer(path, len(PIECES)) == Tokenizer(tuple(PIECES), tuple(SCORES))
    for blob in (body[:-3], body + bytes(8), body[:4] + b"\xff\xff\xff\x7f" + body[8:], b""):
        path.write_bytes(struct.pack("<i", 6) + blob)
        with pytest.raises(CheckpointError, match=r"^t\.bin: "):
            load_tokenizer(path, len(PIECES))


def test_stories_tokenizer(data_folder: Path) -> None:
    """The five documents of the sample have 1,804 tokens after their begin marks and round-trip."""
    tokenizer = load_tokenizer(data_folder / "stories260K/tok512.bin", 512)
    text = (data_folder / "text/tinystories_sample_4k.txt").read_text(encoding="utf-8")
    documents = [part.strip() for part in text.split("<|endoftext|>") if part.strip()]
    encoded = [tokenizer.encode(part) for part in documents]
    assert sum(len(ids) - 1 for ids in encoded) == 1804
    assert [tokenizer.decode(ids) for ids in encoded] == documents

# SPDX-License-Identifier: Apache-2.0
"""Models and tokenizers in the files of llama2.c (version 0).

Source: karpathy/llama2.c, `run.c` (layout of both files) and `export.py`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from algos.importers.torch_checkpoint import MAX_BYTES, CheckpointError
from algos.models.llama import Llama, LlamaConfig

BOS = 1
_BYTE_TOKENS = 3  # tokens 0..2 are unknown, begin and end; 256 bytes follow


def load_llama(path: Path | str, max_bytes: int = MAX_BYTES) -> Llama:
    """Read a model: seven int32 sizes, then float32 tensors, all little-endian.

    Raises
    ------
    CheckpointError
        If sizes are out of range, or the file's length is not exactly what they ask for.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > max_bytes:
        raise CheckpointError(f"{path.name}: at most {max_bytes} bytes are read, not {size}")
    with path.open("rb") as file:
        header = file.read(28)
    if len(header) != 28:
        raise CheckpointError(f"{path.name}: the header must have 28 bytes, not {len(header)}")
    dim, hidden, layers, heads, kv_heads, vocab, context = struct.unpack("<7i", header)
    shared, vocab = vocab > 0, abs(vocab)
    sizes = (dim, hidden, layers, heads, kv_heads, vocab, context)
    if min(sizes) < 1 or max(sizes) > 1 << 20 or dim % heads or heads % kv_heads:
        raise CheckpointError(f"{path.name}: the sizes {sizes!r} are no Llama model")
    config = LlamaConfig(*sizes)
    if config.head_dim % 2:
        raise CheckpointError(f"{path.name}: the heads' width {config.head_dim!r} must be even")
    shapes = _shapes(config, shared)
    expected = 28 + 4 * sum(int(np.prod(shape, dtype=object)) for _, shape in shapes)
    if size != expected:
        raise CheckpointError(
            f"{path.name}: the sizes {sizes!r} ask for {expected} bytes, not {size}"
        )
    words = np.fromfile(path, dtype="<f4", offset=28)
    if not bool(np.isfinite(words).all()):
        raise CheckpointError(f"{path.name}: a tensor holds NaN or infinity")
    return _fill(config, _split(words, shapes))


def _shapes(config: LlamaConfig, shared: bool) -> list[tuple[str, tuple[int, ...]]]:
    """Return name and shape of each tensor, in the order of the file."""
    n, d, h = config.layers, config.dim, config.hidden
    kv = config.kv_heads * config.head_dim
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("tok_embeddings", (config.vocab, d)),
        ("attention_norm", (n, d)),
        ("attention.wq", (n, d, d)),
        ("attention.wk", (n, kv, d)),
        ("attention.wv", (n, kv, d)),
        ("attention.wo", (n, d, d)),
        ("ffn_norm", (n, d)),
        ("feed_forward.w1", (n, h, d)),
        ("feed_forward.w2", (n, d, h)),
        ("feed_forward.w3", (n, h, d)),
        ("norm", (d,)),
        ("cos", (config.context, config.head_dim // 2)),
        ("sin", (config.context, config.head_dim // 2)),
    ]
    return shapes if shared else [*shapes, ("output", (config.vocab, d))]


def _split(
    words: NDArray[np.float32], shapes: list[tuple[str, tuple[int, ...]]]
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    at = 0
    for name, shape in shapes:
        count = int(np.prod(shape))
        tensors[name] = torch.tensor(words[at : at + count].reshape(shape))
        at += count
    return tensors


def _fill(config: LlamaConfig, tensors: dict[str, Tensor]) -> Llama:
    # The file's rotary tables equal those that the model computes; they are not read.
    tensors = {k: v for k, v in tensors.items() if k not in ("cos", "sin")}
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 3 or name in ("attention_norm", "ffn_norm"):
            for i, layer in enumerate(tensor):
                state[f"layers.{i}.{name}.weight"] = layer
        else:
            state[f"{name}.weight"] = tensor
    state.setdefault("output.weight", tensors["tok_embeddings"])
    model = Llama(config)
    if "output" in tensors:
        model.output.weight = torch.nn.Parameter(tensors["output"])
    model.load_state_dict(state)
    return model.eval()


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Byte-pair encoding by scores.

    Attributes
    ----------
    pieces : tuple of bytes
        Text of each token.
    scores : tuple of float
        Of two merges, the one with the higher score comes first.
    """

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Return token numbers; a text that is not empty is preceded by a space.

        Characters without a token become their UTF-8 bytes. Of equal scores the first pair wins.
        """
        number = {piece: i for i, piece in reversed(list(enumerate(self.pieces)))}
        ids: list[int] = []
        for char in f" {text}" if text else "":
            piece = char.encode()
            ids.extend([number[piece]] if piece in number else (b + _BYTE_TOKENS for b in piece))
        while True:
            best: tuple[float, int, int] | None = None
            for i, (a, b) in enumerate(pairwise(ids)):
                merged = number.get(self.pieces[a] + self.pieces[b])
                if merged is not None and (best is None or self.scores[merged] > best[0]):
                    best = (self.scores[merged], i, merged)
            if best is None:
                return [BOS, *ids] if bos else ids
            ids[best[1] : best[1] + 2] = [best[2]]

    def decode(self, ids: list[int]) -> str:
        """Return the text of token numbers, without begin mark and the space before the text.

        Raises
        ------
        ValueError
            If a number is not in the vocabulary.
        """
        out = bytearray()
        for i in ids:
            if not 0 <= i < len(self.pieces):
                raise ValueError(f"a token number must be in 0..{len(self.pieces) - 1}, not {i!r}")
            if i == BOS:
                continue
            is_byte = _BYTE_TOKENS <= i < _BYTE_TOKENS + 256
            out += bytes([i - _BYTE_TOKENS]) if is_byte else self.pieces[i]
        text = out.decode(errors="replace")
        return text.removeprefix(" ")


def load_tokenizer(path: Path | str, vocab: int) -> Tokenizer:
    """Read a tokenizer: int32 longest piece, then per token float32 score, int32 length, bytes.

    Raises
    ------
    CheckpointError
        If the file does not hold `vocab` tokens and nothing more.
    """
    path = Path(path)
    if path.stat().st_size > 64 * (vocab + 1) + 1024:
        raise CheckpointError(f"{path.name}: it is too long for {vocab} tokens")
    blob = path.read_bytes()
    pieces: list[bytes] = []
    scores: list[float] = []
    at = 4
    for i in range(vocab):
        if at + 8 > len(blob):
            raise CheckpointError(f"{path.name}: it ends before token {i} of {vocab}")
        score, length = struct.unpack_from("<fi", blob, at)
        at += 8
        if not 0 <= length <= len(blob) - at or score != score:
            raise CheckpointError(f"{path.name}: token {i} has length {length!r}, score {score!r}")
        pieces.append(blob[at : at + length])
        scores.append(score)
        at += length
    if at != len(blob):
        raise CheckpointError(f"{path.name}: {len(blob) - at} bytes follow the last token")
    return Tokenizer(tuple(pieces), tuple(scores))

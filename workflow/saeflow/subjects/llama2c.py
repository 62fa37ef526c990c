"""Convert a model in llama2.c's legacy checkpoint format to a Hugging Face Llama folder."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from saeflow.artifacts import ArtifactError

_FIELDS = "<7i"
_HEADER_BYTES = struct.calcsize(_FIELDS)
_SPACE = "▁"
UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"


class Header(NamedTuple):
    """The seven integers that a legacy checkpoint begins with."""

    dim: int
    hidden_dim: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    context: int
    shared: bool
    """The head is the transposed embedding (the file says so by a positive vocabulary size)."""

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.dim // self.heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the float32 arrays, in the order of the file."""
        d, hidden, n, kv = self.dim, self.hidden_dim, self.layers, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "embedding": (self.vocab_size, d),
            "attention_norm": (n, d),
            "wq": (n, d, d),
            "wk": (n, kv, d),
            "wv": (n, kv, d),
            "wo": (n, d, d),
            "mlp_norm": (n, d),
            "w1": (n, hidden, d),
            "w2": (n, d, hidden),
            "w3": (n, hidden, d),
            "final_norm": (d,),
            "rope_cos": (self.context, self.head_dim // 2),
            "rope_sin": (self.context, self.head_dim // 2),
        }
        return shapes if self.shared else shapes | {"head": (self.vocab_size, d)}


def convert(checkpoint: Path, tokenizer: Path, out: Path) -> None:
    """Write the model and its tokenizer as a Hugging Face folder `out`.

    Raises ArtifactError for a file that is truncated, too long or of another format.
    """
    header, arrays = read_checkpoint(checkpoint)
    converted = read_tokenizer(tokenizer, header)
    model = LlamaForCausalLM(_config(header))
    weights = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    model.load_state_dict(_state(header, weights))
    model.save_pretrained(out)
    converted.save_pretrained(str(out))


def read_header(path: Path) -> Header:
    """Return the header of a legacy `.bin`; raises ArtifactError if it is none."""
    with path.open("rb") as file:
        raw = file.read(_HEADER_BYTES)
    if len(raw) < _HEADER_BYTES:
        raise ArtifactError(f"{path}: {len(raw)} bytes, a llama2.c header has {_HEADER_BYTES}")
    dim, hidden_dim, layers, heads, kv_heads, vocab_size, context = struct.unpack(_FIELDS, raw)
    shared = vocab_size > 0
    header = Header(dim, hidden_dim, layers, heads, kv_heads, abs(vocab_size), context, shared)
    _check_header(path, header)
    return header


def read_checkpoint(path: Path) -> tuple[Header, dict[str, NDArray[np.float32]]]:
    """Return the header and the arrays of a legacy `.bin`, mapped from the file."""
    header = read_header(path)
    shapes = header.shapes()
    expected = _HEADER_BYTES + 4 * sum(math.prod(shape) for shape in shapes.values())
    size = path.stat().st_size
    if size != expected:
        raise ArtifactError(
            f"{path}: {size:,} bytes, its header {tuple(header[:7])} asks for {expected:,}; "
            "truncated, or not llama2.c's legacy format (version 0)"
        )
    flat = np.memmap(path, dtype="<f4", mode="r", offset=_HEADER_BYTES)
    arrays, position = {}, 0
    for name, shape in shapes.items():
        arrays[name] = flat[position : position + math.prod(shape)].reshape(shape)
        position += math.prod(shape)
    return header, arrays


def _check_header(path: Path, header: Header) -> None:
    numbers = header[:7]
    whole_heads = min(numbers) > 0 and (
        header.dim % (2 * header.heads) == 0 and header.heads % header.kv_heads == 0
    )
    if not whole_heads or max(numbers) > 2**24:
        raise ArtifactError(
            f"{path}: {tuple(numbers)} is no llama2.c header "
            "(dim, hidden_dim, layers, heads, kv_heads, vocab_size, context)"
        )


def _config(header: Header) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=header.vocab_size,
        hidden_size=header.dim,
        intermediate_size=header.hidden_dim,
        num_hidden_layers=header.layers,
        num_attention_heads=header.heads,
        num_key_value_heads=header.kv_heads,
        max_position_embeddings=header.context,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=header.shared,
        bos_token_id=1,
        eos_token_id=2,
    )


def _state(header: Header, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {
        "model.embed_tokens.weight": weights["embedding"],
        "model.norm.weight": weights["final_norm"],
        "lm_head.weight": weights["embedding" if header.shared else "head"],
    }
    per_layer = {
        "input_layernorm": "attention_norm",
        "self_attn.q_proj": "wq",
        "self_attn.k_proj": "wk",
        "self_attn.v_proj": "wv",
        "self_attn.o_proj": "wo",
        "post_attention_layernorm": "mlp_norm",
        "mlp.gate_proj": "w1",
        "mlp.down_proj": "w2",
        "mlp.up_proj": "w3",
    }
    for i in range(header.layers):
        for theirs, ours in per_layer.items():
            weight = weights[ours][i]
            if ours in ("wq", "wk"):
                weight = halves_from_pairs(weight, header.head_dim)
            state[f"model.layers.{i}.{theirs}.weight"] = weight
    return state


def halves_from_pairs(weight: Tensor, head_dim: int) -> Tensor:
    """Reorder the rows (heads * head_dim, d) of a query or key matrix.

    llama2.c rotates neighbouring rows as pairs; Hugging Face rotates row i with row
    i + head_dim / 2.
    """
    pairs = weight.view(-1, head_dim // 2, 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def read_tokenizer(path: Path, header: Header) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a llama2.c `tokenizer.bin` as a fast tokenizer.

    The file holds the longest piece's size and then, for each id, a float32 score, an int32
    size and the piece. A piece that two others make up is a merge, and the better score merges
    first, as in SentencePiece's BPE; what is not in the vocabulary becomes its bytes.
    """
    pieces, scores = _read_pieces(path, header.vocab_size)
    vocab = {piece: i for i, piece in enumerate(pieces)}
    if len(vocab) != len(pieces):
        raise ArtifactError(f"{path}: {len(pieces) - len(vocab)} pieces occur twice")
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(pieces[3:], key=lambda piece: -scores[vocab[piece]])
        if not _is_byte(piece)
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    bpe = Tokenizer(models.BPE(vocab, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    bpe.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bpe.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, vocab[BEGIN])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=header.context,
        clean_up_tokenization_spaces=False,
    )


def _read_pieces(path: Path, vocab_size: int) -> tuple[list[str], list[float]]:
    raw = path.read_bytes()
    pieces, scores, position = [], [], 4
    for i in range(vocab_size):
        if position + 8 > len(raw):
            raise ArtifactError(f"{path}: ends at piece {i} of the model's {vocab_size}")
        score, size = struct.unpack_from("<fi", raw, position)
        position += 8
        if size < 0 or position + size > len(raw):
            raise ArtifactError(
                f"{path}: piece {i} claims {size} bytes, {len(raw) - position} are left"
            )
        pieces.append(raw[position : position + size].decode(errors="replace"))
        scores.append(score)
        position += size
    if position != len(raw):
        raise ArtifactError(
            f"{path}: {len(raw) - position} bytes after piece {vocab_size}, the model's last"
        )
    specials = [UNKNOWN, BEGIN, END]
    if [piece.strip() for piece in pieces[:3]] != specials:
        raise ArtifactError(f"{path}: the first pieces are {pieces[:3]}, expected {specials}")
    return specials + [piece.replace(" ", _SPACE) for piece in pieces[3:]], scores


def _is_byte(piece: str) -> bool:
    return re.fullmatch("<0x[0-9A-F]{2}>", piece) is not None

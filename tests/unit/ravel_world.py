"""Entities whose attributes are axes of the embedding, and a subject that reads them off.

Entity `eij` has country i and language j: its activation is the sum of two axes. The query token
looks at all tokens before it alike, and the head answers with what it saw of the attribute asked.
Country 2 is called `land c2`, two tokens. `liar` looks like `e00`; the file says otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from concept_recall_world import write_sae
from test_evaluation_core import write_cache_manifest
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from worded_subject import write_worded_subject

from saeflow.sae.model import SAE

N = 3
ENTITIES = [f"e{i}{j}" for i in range(N) for j in range(N)]
FIRST = {"country": ["c0", "c1", "land"], "language": ["l0", "l1", "l2"]}
QUERIES = list(FIRST)
TOKENS = ["<|endoftext|>", "of", *QUERIES, *ENTITIES, "liar", *FIRST["country"], "c2"] + FIRST[
    "language"
]
AXES = ["c0", "c1", "land", "l0", "l1", "l2", *QUERIES, "told land", "rest"]
D_IN, CONTEXT = len(AXES), 8
SITE = "gpt_neox.layers.0"
TEMPLATES = {of: [f"{{entity}} {of}", f"of {{entity}} {of}"] for of in QUERIES}
COUNTRY, LANGUAGE = [0, 1, 2], [3, 4, 5]


def entities() -> dict[str, Any]:
    """The file's content."""
    return {
        "city": {
            "templates": TEMPLATES,
            "entities": {
                **{name: values(int(name[1]), int(name[2])) for name in ENTITIES},
                "liar": values(1, 0),
            },
        }
    }


def values(country: int, language: int) -> dict[str, str]:
    return {"country": ["c0", "c1", "land c2"][country], "language": f"l{language}"}


def activation(token: str) -> Tensor:
    x_d = torch.zeros(D_IN)
    if token in ENTITIES:
        x_d[[int(token[1]), N + int(token[2])]] = 1
    elif token == "liar":
        x_d[[0, N]] = 1
    elif token in QUERIES:
        x_d[AXES.index(token)] = 4
    elif token == "land":
        x_d[AXES.index("told land")] = 4
    return x_d


def axes_sae() -> SAE:
    """A latent for each value of each attribute."""
    return _sae(torch.eye(D_IN)[:, : 2 * N], torch.eye(D_IN)[: 2 * N])


def country_sae() -> SAE:
    """Latents for countries alone: languages are its error."""
    return _sae(torch.eye(D_IN)[:, :N], torch.eye(D_IN)[:N])


def entity_sae() -> SAE:
    """A latent for each entity, which carries both of its attributes."""
    whole_fd = torch.stack([activation(name) for name in ENTITIES])
    return _sae(4 * whole_fd.T, whole_fd / 4, torch.full((len(ENTITIES),), -4.0))


def random_sae() -> SAE:
    """Random directions."""
    w_fd = torch.randn(40, D_IN, generator=torch.Generator().manual_seed(0))
    w_fd /= w_fd.norm(dim=1, keepdim=True)
    return _sae(w_fd.T.clone(), 0.4 * w_fd, torch.full((40,), -0.1))


def _sae(enc_df: Tensor, dec_fd: Tensor, bias_f: Tensor | None = None) -> SAE:
    bias_f = torch.zeros(len(dec_fd)) if bias_f is None else bias_f
    return SAE(enc_df.clone(), dec_fd.clone(), bias_f, torch.zeros(D_IN), nn.ReLU())


def make_world(root: Path) -> None:
    """Write subject, file of entities, the manifest of a cache and an SAE (`sae`)."""
    make_subject(root / "subject")
    (root / "entities.json").write_text(json.dumps(entities()))
    write_cache_manifest(root / "cache", None)
    write_sae(root / "sae", axes_sae(), SITE, root / "cache")


def make_subject(folder: Path) -> None:
    """Block 0 does nothing, block 1 adds the mean of the normalised states before it."""
    config = GPTNeoXConfig(
        vocab_size=len(TOKENS), hidden_size=D_IN, num_hidden_layers=2, num_attention_heads=1,
        intermediate_size=4, max_position_embeddings=CONTEXT,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        model.gpt_neox.embed_in.weight.copy_(torch.stack([activation(t) for t in TOKENS]))
        attention = model.gpt_neox.layers[1].attention
        attention.query_key_value.weight[2 * D_IN :] = torch.eye(D_IN)
        attention.dense.weight.copy_(6 * torch.eye(D_IN))
        model.lm_head.weight.copy_(_head())
    write_worded_subject(folder, model, TOKENS, CONTEXT)


def _head() -> Tensor:
    """Answers weigh their own axis, and much more whether their attribute was asked."""
    head_vd = torch.zeros(len(TOKENS), D_IN)
    for query, answers in FIRST.items():
        for answer in answers:
            head_vd[TOKENS.index(answer), AXES.index(answer)] = 1
            head_vd[TOKENS.index(answer), AXES.index(query)] = 10
    head_vd[TOKENS.index("c2"), AXES.index("told land")] = 100
    return head_vd

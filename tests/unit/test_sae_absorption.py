"""On activations whose features form a hierarchy, which variants absorb parents into children.

Eight parent directions, each with four children that occur with their parent alone, all orthogonal.
A latent for "parent and child" is sparser than one for each, so that an SAE that is only pressed
for sparsity lets the parent's latent fall silent where a child's fires (Chanin et al. 2024). Two
published remedies, Matryoshka's prefixes and OrtSAE's penalty, must show less of it. OrtSAE's gamma
is 1 here, in place of 0.25: with 0.25 the effect on 40 latents is small beside the spread of seeds.
"""

from __future__ import annotations

import pytest
import torch
from sae_planted import VARIANTS, settings
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from saeflow.sae.model import SAE
from saeflow.sae.optimisation import Trainer
from saeflow.sae.settings import Matryoshka, Orthogonality

PARENTS, CHILDREN, D = 8, 4, 48
D_SAE, STEPS, BATCH = PARENTS * (1 + CHILDREN), 400, 256
FAMILY = {
    "batchtopk": VARIANTS["batchtopk"],
    "matryoshka": VARIANTS["matryoshka"].model_copy(
        update={"matryoshka": Matryoshka(fractions=(1 / 6, 1 / 3, 1 / 2))}
    ),
    "ortsae": VARIANTS["ortsae"].model_copy(
        update={"orthogonality": Orthogonality(chunk_size=D_SAE, gamma=1.0)}
    ),
}


def hierarchy(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return activations (n, d), which parents are on (n, parents), and parent directions."""
    stream = torch.Generator().manual_seed(seed)
    directions_fd = torch.linalg.qr(torch.randn(D, D, generator=stream))[0][:D_SAE]
    parent_np = torch.rand(n, PARENTS, generator=stream) < 0.25
    with_child_np = parent_np & (torch.rand(n, PARENTS, generator=stream) < 0.85)
    which_np = torch.randint(CHILDREN, (n, PARENTS), generator=stream)
    child_npc = one_hot(which_np, CHILDREN) * with_child_np[..., None]
    on_nf = torch.cat([parent_np[..., None], child_npc], 2).flatten(1).float()
    strength_nf = 0.9 + 0.2 * torch.rand(n, D_SAE, generator=stream)
    return on_nf * strength_nf @ directions_fd, parent_np, directions_fd[:: 1 + CHILDREN]


@torch.no_grad()
def absorption(sae: SAE, rows_nd: Tensor, parent_np: Tensor, direction_pd: Tensor) -> float:
    """Share of a parent's tokens on which its latent is silent and another carries it.

    A parent's latent is the one nearest to its direction; one carries it whose decoder row has a
    cosine of 0.25 or more to it.
    """
    fires_nf = sae.encode(rows_nd) > 0
    cosine_fp = normalize(sae.W_dec, dim=1) @ direction_pd.t()
    rates = []
    for parent in range(PARENTS):
        fires, main = fires_nf[parent_np[:, parent]], cosine_fp[:, parent].argmax()
        carriers = cosine_fp[:, parent] >= 0.25
        carriers[main] = False
        rates.append((~fires[:, main] & fires[:, carriers].any(1)).float().mean())
    return torch.stack(rates).mean().item()


def measured(name: str, seed: int) -> float:
    rows, parents, directions = hierarchy(20_000, seed)
    options = {"tokens": STEPS * BATCH, "batch_size": BATCH, "learning_rate": 5e-3, "seed": seed}
    config = settings(FAMILY[name], d_sae=D_SAE, l0=4, **options)
    trainer = Trainer(config, rows[:2000], rows.square().mean().item())
    for step in range(STEPS):
        trainer.step(rows[step * BATCH % 19_000 :][:BATCH])
    trainer.calibrate(rows[:8000].split(BATCH))
    return absorption(trainer.finished(), rows[:5000], parents[:5000], directions)


@pytest.mark.parametrize("seed", range(3))
def test_matryoshka_and_ortsae_absorb_less_than_batchtopk(seed):
    rates = {name: measured(name, seed) for name in FAMILY}
    assert rates["batchtopk"] > 0.25  # there is something to absorb
    assert rates["matryoshka"] < 0.6 * rates["batchtopk"]
    assert rates["ortsae"] < 0.6 * rates["batchtopk"]

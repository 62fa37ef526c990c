"""An automatic judge in the place of a person: is a latent about gender or about the profession?

Marks et al. 2024 let a person look at each latent of the circuit. Here held-out biographies of all
four subgroups decide: a latent's activation on a biography predicts gender, and it predicts the
profession, and the better prediction says what it is about. Each is measured within the classes
of the other label, so that neither can stand in for the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from saeflow.debias.biographies import Examples
from saeflow.debias.passes import text_mask
from saeflow.debias.patched import batches_by_length, padded
from saeflow.debias.settings import Judge
from saeflow.debias.slicing import encoder_of
from saeflow.progress import Progress
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject
from saeflow.subjects.sites import run_to_sites

COLUMNS = ("module", "latent", "gender", "profession", "active", "ablated", "decided_by")


def judge_gender(
    subject: Subject,
    saes: Mapping[str, SAE],
    candidates: Mapping[str, Tensor | Sequence[int]],
    examples: Examples,
    settings: Judge,
    *,
    batch_tokens: int,
) -> pd.DataFrame:
    """Return a row for each of the `candidates` (module to indices in its SAE), in their order.

    `gender` and `profession` are AUROCs; `active` counts the biographies on which the latent is
    active. `ablated` says that the latent is about gender: |gender - 0.5| exceeds |profession -
    0.5| by more than the margin, and it is active on enough biographies. Raises ValueError where
    one of the four subgroups has no biography, or an SAE has no such latent.
    """
    acts = _activations(subject, saes, candidates, examples, settings.statistic, batch_tokens)
    genders, professions = examples.gender_n.numpy(), examples.profession_n.numpy()
    parts = []
    for module, acts_nf in acts.items():
        part = pd.DataFrame({"latent": [int(latent) for latent in candidates[module]]})
        part.insert(0, "module", module)
        part["gender"] = auroc_within(acts_nf, genders, professions)
        part["profession"] = auroc_within(acts_nf, professions, genders)
        part["active"] = (acts_nf > 0).sum(0)
        parts.append(part)
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS[:5])
    return table.assign(ablated=is_gendered(table, settings), decided_by="judge")[[*COLUMNS]]


def is_gendered(table: pd.DataFrame, settings: Judge) -> pd.Series:
    """Return the decision on each row of AUROCs `gender` and `profession` and counts `active`."""
    lead = (table["gender"] - 0.5).abs() - (table["profession"] - 0.5).abs()
    return (lead > settings.margin) & (table["active"] >= settings.min_activations)


def auroc_within(
    values_nf: NDArray[np.floating], class_n: NDArray[np.integer], group_n: NDArray[np.integer]
) -> NDArray[np.floating]:
    """Return by column the AUROC (f,) of values for class 1 against 0, averaged over the groups.

    0.5 tells nothing, below it large values mean class 0; equal values count half. Raises
    ValueError for a group without examples of both classes.
    """
    found = []
    for group in np.unique(group_n):
        inside = group_n == group
        positive = class_n[inside] == 1
        n_1, n_0 = int(positive.sum()), int((~positive).sum())
        if not n_1 or not n_0:
            raise ValueError(
                f"group {group} has {n_0} examples of class 0 and {n_1} of class 1: an AUROC "
                "needs both"
            )
        ranks_nf = rankdata(values_nf[inside], axis=0)
        found.append((ranks_nf[positive].sum(0) - n_1 * (n_1 + 1) / 2) / (n_1 * n_0))
    if not found:
        raise ValueError("no examples to judge by")
    return np.mean(found, axis=0)


@torch.no_grad()
def _activations(
    subject: Subject,
    saes: Mapping[str, SAE],
    candidates: Mapping[str, Tensor | Sequence[int]],
    examples: Examples,
    statistic: str,
    batch_tokens: int,
) -> dict[str, NDArray[np.floating]]:
    """Return by module what each candidate does on each biography (n, f) of the clean subject."""
    index = {
        module: checked_latents(module, saes[module].d_sae, latents)
        for module, latents in candidates.items()
        if len(latents)
    }
    encoders = {module: encoder_of(saes[module], of) for module, of in index.items()}
    pooled = {module: torch.zeros(len(examples.tokens), len(of)) for module, of in index.items()}
    with Progress(len(examples.tokens), "biographies", "judging latents") as progress:
        for rows in batches_by_length(examples.tokens, batch_tokens) if index else ():
            tokens_bt, lengths_b = padded([examples.tokens[row] for row in rows])
            text_bt1 = text_mask(subject, tokens_bt, lengths_b)[..., None]
            for module, x_btd in run_to_sites(subject, tokens_bt, list(index)).items():
                acts_nf = encoders[module](x_btd.flatten(0, 1).float())
                acts_btf = acts_nf.unflatten(0, x_btd.shape[:2]) * text_bt1
                summary_bf = (
                    acts_btf.amax(1) if statistic == "max" else acts_btf.sum(1) / text_bt1.sum(1)
                )
                pooled[module][rows] = summary_bf.cpu()
            progress.update(len(rows))
    return {module: acts_nf.numpy() for module, acts_nf in pooled.items()}


def checked_latents(where: str, d_sae: int, latents: Tensor | Sequence[int]) -> Tensor:
    """Return indices of latents as a tensor; raises ValueError for one that the SAE lacks."""
    index = torch.as_tensor(latents, dtype=torch.long)
    wrong = index[(index < 0) | (index >= d_sae)].tolist()
    if wrong:
        raise ValueError(f"{where}: latents {wrong[:10]} are not among the SAE's {d_sae:,}")
    return index

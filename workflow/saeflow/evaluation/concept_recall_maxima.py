"""The largest activation of every latent, and of every axis of the site, over stretches of text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeflow.activations.exclusion import Exclusion
from saeflow.activations.windows import Window, group_by_length, pad
from saeflow.evaluation.concept_recall_instances import Instance
from saeflow.evaluation.concept_recall_settings import ConceptRecallSettings
from saeflow.evaluation.site_rows import arithmetic, check_width, read_site
from saeflow.progress import Progress, say
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject


class Maxima(NamedTuple):
    """Of one split: the instances that count, and each detector's largest values over them."""

    concepts: list[str]
    values: dict[int | None, NDArray[np.float32]]
    """(n, d_sae) by seed; of the site's axes, (n, 2 d_in), under None."""

    def counts(self) -> dict[str, int]:
        """Instances by concept."""
        return dict(sorted(Counter(self.concepts).items()))


@torch.no_grad()
def maxima_over(
    settings: ConceptRecallSettings,
    subject: Subject,
    saes: Mapping[int, SAE | Boosted],
    site: str,
    rule: Exclusion,
    instances: Sequence[Instance],
) -> Maxima:
    """Return the maxima over each instance that has a token that counts, of SAEs by seed."""
    context = arithmetic(subject, settings.precision)
    concepts: list[str] = []
    values: dict[int | None, list[Tensor]] = {seed: [] for seed in (*saes, None)}
    with Progress(len(instances), "sentences", "reading planted sentences") as progress:
        for batch, held in _batches(instances, settings.batch_tokens):
            rows = read_site(subject, site, rule, pad(batch), context)
            spans: list[Tensor] = []
            for row, own in enumerate(held):
                for instance in own:
                    inside = slice(instance.start, instance.end)
                    x_nd = rows.acts_btd[row, inside][rows.kept_bt[row, inside]].float()
                    if len(x_nd):
                        spans.append(x_nd)
                        concepts.append(instance.concept)
            if spans:
                _add_maxima(values, saes, subject, site, spans)
            progress.update(sum(map(len, held)))
    if len(concepts) < len(instances):
        say(f"{len(instances) - len(concepts)} sentences have no token that counts; left out")
    return Maxima(concepts, {key: torch.cat(parts).cpu().numpy() for key, parts in values.items()})


def _add_maxima(
    values: Mapping[int | None, list[Tensor]],
    saes: Mapping[int, SAE | Boosted],
    subject: Subject,
    site: str,
    spans: Sequence[Tensor],
) -> None:
    x_nd = torch.cat(list(spans))
    lengths = [len(span) for span in spans]
    for seed, sae in saes.items():
        check_width(subject, site, x_nd.shape[1], sae.W_dec.shape[1])
        acts_nf = sae.encode(x_nd)
        values[seed].append(torch.stack([part.amax(0) for part in acts_nf.split(lengths)]))
    signed_nd = torch.cat([x_nd, -x_nd], dim=1)
    values[None].append(torch.stack([part.amax(0) for part in signed_nd.split(lengths)]))


def _batches(
    instances: Sequence[Instance], batch_tokens: int
) -> Iterator[tuple[list[Window], list[list[Instance]]]]:
    """Yield windows, cut behind their last instance, and the instances in each."""
    held: defaultdict[tuple[int, int], list[Instance]] = defaultdict(list)
    for instance in instances:
        held[instance.window.document, instance.window.start].append(instance)
    windows = [
        own[0].window._replace(tokens=own[0].window.tokens[: max(i.end for i in own)])
        for own in held.values()
    ]
    for batch in group_by_length(windows, batch_tokens, np.random.default_rng(0)):
        yield batch, [held[window.document, window.start] for window in batch]

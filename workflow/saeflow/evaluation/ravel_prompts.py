"""Prompts about entities that the subject answers right, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saeflow.activations.windows import Window, group_by_length, pad
from saeflow.evaluation.pooled import Site
from saeflow.evaluation.ravel_entities import EntityKind
from saeflow.evaluation.ravel_settings import RavelSettings
from saeflow.evaluation.site_rows import arithmetic, read_site
from saeflow.subjects.head import logits
from saeflow.subjects.load import Subject
from saeflow.subjects.splice import run_from_site


class Prompt(NamedTuple):
    """A question about one attribute of one entity."""

    attribute: str
    template: str
    entity: str
    value: str
    tokens: tuple[int, ...]
    """As the subject reads them, the begin token first where it has one."""
    at: int
    """Where activations are interchanged."""
    answer: tuple[int, ...]
    """The first tokens of the value, with the space before it."""


class Known(NamedTuple):
    """The prompts of one attribute that are used."""

    prompts: list[Prompt]
    x_nd: Tensor
    """The site's activations (n, d_in) where they are interchanged, in float32."""
    left_out: dict[str, int]
    """How many of those asked were left out, by reason (`REASONS`)."""

    @property
    def entities(self) -> int:
        """How many different entities there are."""
        return len({prompt.entity for prompt in self.prompts})


REASONS = ("asked", "cut", "excluded", "wrong", "beyond_top")
"""How many prompts were asked, of these: entities that do not end with a token and prompts that are
too long; prompts whose token the site's rule leaves out; wrong answers; entities and templates
beyond the settings' most."""


@torch.no_grad()
def known_prompts(settings: RavelSettings, kind: EntityKind, site: Site) -> dict[str, Known]:
    """Return by attribute the prompts about a kind of entity that the subject answers right.

    Right means that greedy decoding gives the answer's tokens, up to `answer_tokens`.
    """
    left_out = {attribute: Counter(dict.fromkeys(REASONS, 0)) for attribute in kind.templates}
    prompts: list[Prompt] = []
    for attribute, prompt in _drawn(settings, kind, site.subject):
        left_out[attribute]["asked"] += 1
        if prompt is None:
            left_out[attribute]["cut"] += 1
        else:
            prompts.append(prompt)
    x_nd, counts_n, right_n = _ask(site, prompts)
    used = _most_right(settings, prompts, [c and r for c, r in zip(counts_n, right_n, strict=True)])
    kept: dict[str, list[int]] = {attribute: [] for attribute in kind.templates}
    for i, prompt in enumerate(prompts):
        if not counts_n[i]:
            left_out[prompt.attribute]["excluded"] += 1
        elif not right_n[i]:
            left_out[prompt.attribute]["wrong"] += 1
        elif i not in used:
            left_out[prompt.attribute]["beyond_top"] += 1
        else:
            kept[prompt.attribute].append(i)
    return {
        attribute: Known([prompts[i] for i in own], x_nd[own], dict(left_out[attribute]))
        for attribute, own in kept.items()
    }


def _drawn(
    settings: RavelSettings, kind: EntityKind, subject: Subject
) -> Iterable[tuple[str, Prompt | None]]:
    """Return some of all questions with their attributes, None where one cannot be asked."""
    questions = [
        (attribute, template, entity, values[attribute])
        for entity, values in kind.entities.items()
        for attribute, templates in kind.templates.items()
        if attribute in values
        for template in templates
    ]
    size = min(settings.prompts, len(questions))
    questions = Random(f"ravel prompts/{settings.seed}").sample(questions, size)
    encode = subject.tokenizer.backend_tokenizer.encode_batch
    texts = [template.replace("{entity}", entity) for _, template, entity, _ in questions]
    encodings = encode(texts, add_special_tokens=False)
    answers = encode([f" {value}" for *_, value in questions], add_special_tokens=False)
    begin = subject.begin_tokens
    for question, encoding, answer in zip(questions, encodings, answers, strict=True):
        attribute, template, entity, _ = question
        last = len(encoding.ids) - 1
        if settings.position == "entity":
            last = _ending_at(encoding.offsets, template.index("{entity}") + len(entity))
        told = tuple(answer.ids[: settings.answer_tokens])
        length = len(begin) + len(encoding.ids) + len(told)
        if last < 0 or not told or length > subject.context:
            yield attribute, None
        else:
            tokens = (*begin, *encoding.ids)
            yield attribute, Prompt(*question, tokens, len(begin) + last, told)


def _ending_at(offsets: Sequence[tuple[int, int]], end: int) -> int:
    """Return the last token that ends with the character before `end`, -1 if none does."""
    return max((i for i, (_, token_end) in enumerate(offsets) if token_end == end), default=-1)


def _ask(site: Site, prompts: Sequence[Prompt]) -> tuple[Tensor, list[bool], list[bool]]:
    """Return activations (n, d_in), whether their tokens count, and whether answers are right.

    In one pass over prompt and answer: greedy decoding gives the answer exactly where each of its
    tokens is the likeliest after the ones before.
    """
    context = arithmetic(site.subject, site.precision)
    windows = [Window(i, 0, np.asarray((*p.tokens, *p.answer[:-1]))) for i, p in enumerate(prompts)]
    x: list[Tensor] = []
    counts: dict[int, bool] = {}
    right: dict[int, bool] = {}
    for batch in group_by_length(windows, site.batch_tokens, np.random.default_rng(0)):
        rows = read_site(site.subject, site.name, site.rule, pad(batch), context)
        own = [prompts[window.document] for window in batch]
        at = range(len(own)), [prompt.at for prompt in own]
        x.append(rows.acts_btd[at].float())
        with context:
            states_btd = run_from_site(site.subject, rows.tokens_bt, site.name, rows.acts_btd)
            answered = gives(
                site.subject,
                states_btd,
                [len(prompt.tokens) for prompt in own],
                [prompt.answer for prompt in own],
            )
        counts |= zip((w.document for w in batch), rows.kept_bt[at].tolist(), strict=True)
        right |= zip((w.document for w in batch), answered, strict=True)
    if not x:
        return torch.zeros(0, 0), [], []
    back_n = torch.tensor(list(counts)).argsort()
    acts_nd = torch.cat(x)
    everything = range(len(prompts))
    return (
        acts_nd[back_n.to(acts_nd.device)],
        [counts[i] for i in everything],
        [right[i] for i in everything],
    )


def gives(
    subject: Subject,
    states_btd: Tensor,
    lengths: Sequence[int],
    answers: Sequence[Sequence[int]],
) -> list[bool]:
    """Whether greedy decoding gives each answer after a prompt of so many tokens.

    `states_btd` are the final states of the prompts, each with its answer behind it.
    """
    rows = [b for b, answer in enumerate(answers) for _ in answer]
    places = [
        length - 1 + i for length, a in zip(lengths, answers, strict=True) for i in range(len(a))
    ]
    told_nd = states_btd[rows, places]
    likeliest_n = logits(subject, told_nd[:, None])[:, 0].argmax(-1).cpu()
    said = likeliest_n.split([len(answer) for answer in answers])
    return [of.tolist() == list(answer) for of, answer in zip(said, answers, strict=True)]


def _most_right(
    settings: RavelSettings, prompts: Sequence[Prompt], right_n: Sequence[bool]
) -> set[int]:
    """Return the right prompts whose entity and template are among those with the most."""
    right = [i for i, is_right in enumerate(right_n) if is_right]
    entities = Counter(prompts[i].entity for i in right).most_common(settings.max_entities)
    templates = Counter((prompts[i].attribute, prompts[i].template) for i in right).most_common(
        settings.max_templates
    )
    known, asked = {name for name, _ in entities}, {name for name, _ in templates}
    return {
        i
        for i in right
        if prompts[i].entity in known and (prompts[i].attribute, prompts[i].template) in asked
    }

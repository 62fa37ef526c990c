"""Select documents of a general corpus for a domain: rank, rerank, cut at the token budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saeflow.artifacts import Clock, read_manifest
from saeflow.corpora.spool import Row
from saeflow.fingerprint import fingerprint
from saeflow.progress import say
from saeflow.retrieval.precision import known_truth
from saeflow.retrieval.reading import RetrievalError, count_tokens, read_rows
from saeflow.retrieval.search import check_index, modules_of, open_index, rank_candidates
from saeflow.retrieval.seeds import (
    EVALUATION_SPLIT,
    count_values,
    draw_seeds,
    key_of,
    keys_of_split,
)
from saeflow.retrieval.settings import Selection
from saeflow.retrieval.write import write_selection

Rerank = Callable[[Sequence[Row], Sequence[Row]], NDArray[np.float64]]
"""From candidates and seeds to a score for each candidate; higher is better."""


class Pool(NamedTuple):
    """Candidates that may be taken, best first."""

    ranking: pd.DataFrame
    """Columns `document`, `score`, `tokens`."""
    rows: dict[int, Row]
    """Their documents, by id."""
    dropped: Counter[str]
    """Candidates that may not be taken, by reason."""


def select_documents(
    settings: Selection,
    *,
    general: Path,
    domain: Path,
    tokens: Path,
    out: Path,
    index: Path | None = None,
    rerank: Rerank | None = None,
    rerank_inputs: Mapping[str, Path] | None = None,
    root: Path = Path(),
    device: str = "cpu",
) -> None:
    """Write the corpus of the selected documents, all to be trained on, into folder `out`.

    `general` and `domain` are corpora; `tokens` the windows of the corpus that documents are taken
    from (`Selection.drawn_from`); `index` the index of `general` that the method searches;
    `rerank` gives TracIn's scores, from `rerank_inputs`. Documents that equal a seed, or a document
    of the domain that is evaluated on, are dropped and counted. Raises RetrievalError for seeds
    that leak and for fewer tokens than asked for; `seeds` and `domain` take what there is and say
    so.
    """
    clock = Clock()
    tracin = ("saeflow.retrieval.tracin",) if settings.tracin else ()
    if (rerank is not None) != (settings.tracin is not None):
        raise ValueError(f"tracin is {settings.tracin}, but rerank is {rerank}")
    for corpus in (general, domain):
        read_manifest(corpus, kind="corpus")
    manifest = check_index(settings, index, general)
    searched = open_index(index, manifest, root=root, device=device) if index and manifest else None
    evaluated = keys_of_split(domain, EVALUATION_SPLIT)
    seeds = draw_seeds(settings.seeds, domain, evaluated)
    ranking = rank_candidates(settings, seeds, general=general, domain=domain, index=searched)
    drawn_from = domain if settings.drawn_from == settings.domain else general
    pool = gather(settings, ranking, seeds, evaluated, drawn_from=drawn_from, tokens=tokens)
    _check_enough(settings, pool, tokens)
    truth = known_truth(general, domain)
    stats: dict[str, Any] = {}
    if rerank is not None:
        stats["first_stage"] = truth.measure(cut(pool.ranking, settings.tokens))
        pool = pool._replace(ranking=_reranked(pool, seeds, rerank))
    chosen = cut(pool.ranking, settings.tokens)
    stats |= {
        "domain": truth.measure(chosen),
        "candidates": {"ranked": len(ranking), "read": len(pool.rows)},
        "dropped": dict(pool.dropped),
        "seeds": [{"document": seed.document, "name": seed.name} for seed in seeds],
        **count_values(settings.seeds, domain, seeds),
    }
    write_selection(
        settings,
        chosen.assign(in_domain=truth.mark(chosen.document)),
        pool.rows,
        out,
        inputs={
            "general": general,
            "domain": domain,
            "tokens": tokens,
            **({"index": index} if index else {}),
            **(rerank_inputs or {}),
        },
        stats=stats,
        device=device,
        code=fingerprint(__name__, *modules_of(manifest), *tracin),
        clock=clock,
    )


def gather(
    settings: Selection,
    ranking: pd.DataFrame,
    seeds: Sequence[Row],
    evaluated: Collection[int],
    *,
    drawn_from: Path,
    tokens: Path,
) -> Pool:
    """Return the best candidates that may be taken: the token budget, or TracIn's multiple of it.

    Fewer where there are no more; none whose hash is in `evaluated` or a seed's. Text is read of
    those alone.
    """
    split = settings.seeds.split if settings.method == "seeds" else "train"
    counts = count_tokens(tokens, split)
    ranking = ranking.assign(tokens=ranking.document.map(counts).fillna(0).astype(np.int64))
    dropped = Counter({"no tokens": int((ranking.tokens == 0).sum())})
    ranking = ranking[ranking.tokens > 0]
    forbidden = {"equals an evaluation document": evaluated}
    if settings.method != "seeds":
        forbidden |= {"equals a seed": {key_of(seed.text) for seed in seeds}}
    limit = settings.tokens * (settings.tracin.candidates if settings.tracin else 1)
    rows: dict[int, Row] = {}
    kept: list[pd.DataFrame] = []
    found = start = 0
    while found < limit and start < len(ranking):
        part = cut(ranking.iloc[start:], limit - found)
        start += len(part)
        read = read_rows(drawn_from, part.document.tolist())
        for document, row in read.items():
            key = key_of(row.text)
            reason = next((why for why, keys in forbidden.items() if key in keys), None)
            if reason:
                dropped[reason] += 1
            else:
                rows[document] = row
        part = part[part.document.isin(rows)]
        found += int(part.tokens.sum())
        kept.append(part)
    return Pool(pd.concat(kept, ignore_index=True) if kept else ranking, rows, dropped)


def cut(ranking: pd.DataFrame, tokens: float) -> pd.DataFrame:
    """Return the first documents of `ranking` up to the one that reaches `tokens`, or all."""
    before_n = ranking.tokens.cumsum() - ranking.tokens
    return ranking[before_n < tokens]


def _check_enough(settings: Selection, pool: Pool, tokens: Path) -> None:
    found, documents = int(pool.ranking.tokens.sum()), len(pool.ranking)
    if found >= settings.tokens:
        return
    what = f"method {settings.method!r} has {found:,} tokens in {documents:,} documents ({tokens})"
    if not documents or settings.drawn_from != settings.domain:
        raise RetrievalError(
            f"{what}, fewer than tokens {settings.tokens:,}; lower tokens, or take a larger "
            "general corpus (or let an approximate index propose more neighbours)"
        )
    say(f"{what}, fewer than {settings.tokens:,}: all are taken, and training repeats them")


def _reranked(pool: Pool, seeds: Sequence[Row], rerank: Rerank) -> pd.DataFrame:
    candidates = [pool.rows[document] for document in pool.ranking.document]
    say(f"reranking {len(candidates):,} candidates")
    scores_n = np.asarray(rerank(candidates, seeds), np.float64)
    if scores_n.shape != (len(candidates),) or not np.isfinite(scores_n).all():
        raise RetrievalError(
            f"reranking {len(candidates)} candidates gave scores of shape {scores_n.shape}, "
            f"{np.isfinite(scores_n).sum()} of them finite; one finite score each is needed"
        )
    reranked = pool.ranking.assign(score=scores_n)
    return reranked.sort_values(["score", "document"], ascending=[False, True], ignore_index=True)

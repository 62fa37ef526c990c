"""Which corpora a corpus is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from saeflow.corpora.derived_settings import DerivedSettings
from saeflow.corpora.settings import Corpus
from saeflow.retrieval.settings import Selection


def made_of(corpus: Corpus | Selection) -> tuple[str, ...]:
    """Return the corpora that must be there first: its parents, or what a selection reads."""
    if isinstance(corpus, DerivedSettings):
        return corpus.parents
    if isinstance(corpus, Selection):
        of_sae = () if corpus.tracin is None else (corpus.tracin.sae.corpus,)
        return (corpus.corpus, corpus.domain, *of_sae)
    return ()


def cycles(corpora: Mapping[str, Corpus | Selection]) -> Iterator[list[str]]:
    """Yield each chain of corpora that leads back to where it starts, once.

    Names that are not among `corpora` lead nowhere.
    """
    finished: set[str] = set()

    def follow(chain: list[str]) -> Iterator[list[str]]:
        name = chain[-1]
        for parent in made_of(corpora[name]):
            if parent in chain:
                yield [*chain[chain.index(parent) :], parent]
            elif parent in corpora and parent not in finished:
                yield from follow([*chain, parent])
        finished.add(name)

    for name in corpora:
        if name not in finished:
            yield from follow([name])

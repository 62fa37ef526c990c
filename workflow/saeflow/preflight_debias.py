"""Checks of a debiasing experiment before its SAEs are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from saeflow.corpora.settings import Biographies, Corpus, Rows
from saeflow.debias.settings import SHIPPED_DECISIONS
from saeflow.grids import Debiasing
from saeflow.references import unknown
from saeflow.retrieval.settings import Selection

_GENDERS = ("female", "male")


def debias_mistakes(
    debias: Debiasing,
    corpus: Corpus | Selection,
    modules: Sequence[str] | None,
    data_dir: Path | None,
) -> Iterator[str]:
    """Yield `key: what is wrong`, keys below the experiment's section.

    `corpus` has the biographies; `modules` are those of the subject, None where nothing is known
    of them before it is there.
    """
    places = {"probe_site": debias.protocol.probe_site}
    if not debias.points():  # those of SAEs that are trained are checked where they are cached
        places |= {f"sites.{name}": module for name, module in debias.protocol.sites.items()}
    for key, module in places.items():
        if modules is not None and module not in modules:
            yield f"protocol.{key}: subject {debias.subject!r} has no module {module!r}"
    yield from _class_mistakes(debias, corpus)
    yield from _person_mistakes(debias, data_dir)


def _class_mistakes(debias: Debiasing, corpus: Corpus | Selection) -> Iterator[str]:
    """Yield labels, and values of them, that no document has, where the config alone tells."""
    if isinstance(corpus, Biographies):
        known: dict[str, Sequence[str]] = {"gender": _GENDERS, "profession": corpus.professions}
    elif isinstance(corpus, Rows):
        known = dict.fromkeys(corpus.labels, ())
    else:
        return
    for key in ("genders", "professions"):
        classes = getattr(debias.protocol, key)
        if classes.label not in known:
            yield (
                f"protocol.{key}.label: the labels of corpora.{debias.corpus}: "
                f"{unknown(classes.label, known)}"
            )
            continue
        values = known[classes.label]
        for name, value in classes.values.items() if values else ():
            if value not in values:
                yield f"protocol.{key}.values.{name}: {unknown(value, values)}"


def _person_mistakes(debias: Debiasing, data_dir: Path | None) -> Iterator[str]:
    """Yield what is wrong with a person's decisions; files that are missing are not among it."""
    if not debias.protocol.person:
        return
    # It imports pandas, for which most runs need not wait.
    from saeflow.debias.trimming import TrimmingError, decisions_path, read_decisions

    for kind, file in debias.protocol.person.items():
        where = f"protocol.person.{kind}"
        if kind not in debias.saes:
            yield f"{where}: {unknown(kind, debias.saes)}"
            continue
        if file not in SHIPPED_DECISIONS and not (data_dir and (data_dir / file).is_file()):
            continue
        widths = dict.fromkeys(debias.protocol.sites, debias.saes[kind].d_sae)
        try:
            read_decisions(decisions_path(file, data_dir), widths)
        except TrimmingError as error:
            yield f"{where}: {error}"

"""How much of a selection is of the domain, where that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saeflow.retrieval.reading import read_ids


class Truth(NamedTuple):
    """Which documents of the general corpus are of the domain; unknown if the ids are None."""

    domain_n: NDArray[np.int64] | None
    """Ids of the domain's documents, of every split, where they are the general corpus's own."""
    of_domain: int
    """Training documents of the domain."""
    documents: int
    """Training documents of the general corpus."""

    def mark(self, documents: pd.Series) -> pd.Series:
        """Return for each document whether it is of the domain, or null."""
        if self.domain_n is None:
            return pd.Series(pd.NA, documents.index, dtype="boolean")
        return documents.isin(self.domain_n).astype("boolean")

    def measure(self, chosen: pd.DataFrame) -> dict[str, Any]:
        """Return the precision of the n documents chosen and of their tokens, and the recall.

        Recall is their number over the domain's training documents; `base_rate` is the precision
        of a blind choice. All null where the truth is unknown.
        """
        n = len(chosen)
        if self.domain_n is None:
            return dict.fromkeys(("precision", "token_precision", "recall", "base_rate")) | {"n": n}
        true_n = chosen.document.isin(self.domain_n)
        return {
            "n": n,
            "precision": float(true_n.mean()),
            "token_precision": float(chosen.tokens[true_n].sum() / chosen.tokens.sum()),
            "recall": float(true_n.sum() / self.of_domain),
            "base_rate": self.of_domain / self.documents,
        }


def known_truth(general: Path, domain: Path) -> Truth:
    """Return the truth, known if all training documents of the domain are the general corpus's.

    Ids come from texts, so corpora of different origin may share a few.
    """
    all_n, train_n = read_ids(general, "train"), read_ids(domain, "train")
    known = len(train_n) > 0 and bool(np.isin(train_n, all_n).all())
    ids_n = np.concatenate([train_n, *(read_ids(domain, s) for s in ("validation", "test"))])
    return Truth(ids_n if known else None, len(train_n), len(all_n))

"""Settings of retrieval: what is indexed and how, and which documents a selection takes."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from saeflow.retrieval.tracin_settings import TracIn
from saeflow.settings import Settings

BM25_INDEX = "bm25"
"""Name of the BM25 index beside the dense indexes of a corpus."""

Method = Literal["random", "bm25", "dense", "seeds", "domain"]
Combination = Literal["mean", "max", "best_rank", "reciprocal_rank"]


class Words(Settings):
    """How a text becomes terms, for BM25 and for the classical embedding."""

    pattern: str = r"\w\w+"
    """Regular expression of a term, searched in the lower-case text; without capturing groups,
    of which a search would give the parts in place of the term."""
    stop_words: Literal["none", "english"] = "english"
    """Leave out the 33 English function words that Lucene leaves out."""
    stemming: Literal["none", "plural"] = "none"
    """`plural` takes off English plural endings (the S stemmer of Harman 1991)."""

    @model_validator(mode="after")
    def _pattern_finds_terms(self) -> Words:
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(
                f"pattern {self.pattern!r} is no regular expression: {error}"
            ) from error
        if groups:
            raise ValueError(
                f"pattern {self.pattern!r} has {groups} capturing groups; write (?:...) for (...)"
            )
        return self


class BM25(Settings):
    """Okapi BM25 (Robertson et al. 1995), as bm25s computes it."""

    k1: NonNegativeFloat = 1.5
    """How much a repeated term still adds; SSAE does not say, this is bm25s's."""
    b: float = Field(0.75, ge=0, le=1)
    """How much long documents are held back; SSAE does not say, this is bm25s's."""
    method: Literal["robertson", "lucene", "atire"] = "lucene"
    """The variant (Kamphuis et al. 2020); Lucene's has no negative weights. Of all three a document
    without a term of the query scores 0, which says that it is no candidate."""
    words: Words = Words()
    shard_documents: PositiveInt = 100_000
    """Documents in memory at a time. A shard has its own document frequencies and mean length;
    shards are uniform samples of the corpus, so they agree but for the rarest terms."""


class LSA(Settings):
    """TF-IDF and a truncated SVD (latent semantic analysis; Deerwester et al. 1990).

    Needs no trained encoder. On installed documentation it finds more of a domain than the mean
    hidden states of the small subject trained on it, in a tenth of the time.
    """

    kind: Literal["lsa"]
    words: Words = Words()
    dimensions: PositiveInt = 256
    """Singular vectors kept."""
    max_terms: PositiveInt = 20_000
    """Terms kept, the most frequent first."""
    min_documents: PositiveInt = 2
    """Terms of fewer documents are left out."""
    sublinear: bool = True
    """Count a term 1 + log(occurrences) times."""
    fit_documents: PositiveInt = 10_000
    """Terms and vectors come from so many documents of the corpus, a uniform sample."""
    seed: NonNegativeInt = 0
    """Of the randomised SVD."""


class HuggingFace(Settings):
    """A Hugging Face encoder, mean-pooled over the tokens that are no padding (Contriever)."""

    kind: Literal["huggingface"]
    model: str | None = None
    """Hub id (`facebook/contriever`)."""
    revision: str | None = Field(None, pattern=r"^[0-9a-f]{40}$")
    """Commit of the model on the hub, all 40 digits: branches and tags move."""
    folder: str | None = None
    """In place of an id: a `save_pretrained` folder below `data_dir`."""
    max_tokens: int = Field(512, ge=2)
    """A longer text is cut; Contriever reads 512 tokens."""
    batch: PositiveInt = 32
    """Texts in one forward pass; changes speed and memory alone."""
    normalise: bool = False
    """Scale embeddings to length 1, which makes the dot product a cosine; Contriever does not."""

    @model_validator(mode="after")
    def _one_pinned_place(self) -> HuggingFace:
        if (self.model is None) == (self.folder is None):
            raise ValueError("give either model (a hub id) or folder (on disk)")
        if self.model is not None and self.revision is None:
            raise ValueError(
                f"model {self.model!r} needs revision, the 40-digit commit it is pinned to "
                "(its page on the hub, Files, History)"
            )
        if self.folder is not None:
            if self.revision is not None:
                raise ValueError("revision belongs to a hub id, not to a folder")
            path = PurePosixPath(self.folder)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"folder {self.folder!r} leaves data_dir; give it relative to it")
        return self


Encoder = Annotated[LSA | HuggingFace, Field(discriminator="kind")]


class Flat(Settings):
    """Exact search: every document is compared with every seed."""

    kind: Literal["flat"] = "flat"


class Approximate(Settings):
    """What the approximate searches have in common: they propose, and exact products decide."""

    neighbours: PositiveInt = 10_000
    """Documents that each seed proposes; the others are no candidates."""
    recall_queries: PositiveInt = 32
    """Documents whose exact nearest `neighbours` are compared with the proposed, for the recall
    in the manifest."""
    seed: NonNegativeInt = 0
    """Of the clustering, and of the draw of the recall's queries."""


class IVF(Approximate):
    """Inverted lists (faiss): only the lists whose centres are nearest are searched."""

    kind: Literal["ivf"]
    nlist: PositiveInt = 1024
    """Lists; the rule of thumb is 4 to 16 times the square root of the documents, fewer for a
    small corpus."""
    nprobe: PositiveInt = 64
    """Lists searched for a seed."""

    @model_validator(mode="after")
    def _lists_exist(self) -> IVF:
        if self.nprobe > self.nlist:
            raise ValueError(f"nprobe {self.nprobe} exceeds nlist {self.nlist}")
        return self


class HNSW(Approximate):
    """A navigable small-world graph (faiss; Malkov & Yashunin 2018)."""

    kind: Literal["hnsw"]
    m: int = Field(16, ge=2)
    """Links of a node, twice as many on the lowest level."""
    ef_construction: PositiveInt = 100
    """Candidates kept while a node is inserted."""
    ef_search: PositiveInt = 256
    """Candidates kept while a seed is searched; at least `neighbours` are."""


Index = Annotated[Flat | IVF | HNSW, Field(discriminator="kind")]


class Dense(Settings):
    """Dense retrieval: embeddings of documents, compared with the seeds' by dot product."""

    encoder: Encoder
    index: Index = Flat()
    shard_documents: PositiveInt = 100_000
    """Documents whose embeddings are in memory at a time, and in one file."""


class Retrieval(Settings):
    """The indexes that selections may use."""

    bm25: BM25 = BM25()
    dense: dict[str, Dense] = Field(default_factory=lambda: {"lsa": Dense(encoder=LSA(kind="lsa"))})
    """Dense indexes by name."""

    @model_validator(mode="after")
    def _names_differ(self) -> Retrieval:
        if BM25_INDEX in self.dense:
            raise ValueError(f"dense.{BM25_INDEX}: is the name of the BM25 index; choose another")
        return self


class Seeds(Settings):
    """The few documents that say what the domain is."""

    documents: PositiveInt = 32
    """Documents drawn; SSAE does not say how many it has."""
    split: Literal["validation", "train"] = "validation"
    """Split of the domain corpus that they are drawn from; never the test split, on which SAEs are
    compared."""
    by: str | None = Field(None, min_length=1)
    """Label over whose values the seeds are spread: the next is one of the value that has fewest,
    so that each value has one where there are as many seeds. A document may have several values,
    with semicolons between them, and what follows a colon is not part of one (`planted` holds
    `concept:start:end` of each sentence). Null draws from all documents alike."""
    seed: NonNegativeInt = 0
    """Of the draw."""


class Selection(Settings):
    """A corpus of the documents that a method selects for a domain, up to a token budget.

    Every method gets the same budget, so that conditions differ in what is trained on and not in
    how much (whether SSAE matches tokens is not stated).
    """

    source: Literal["selection"]
    corpus: str
    """General corpus whose train split is selected from."""
    domain: str
    """Corpus of the domain: its seeds are the query, its test split is kept out."""
    subject: str
    """Subject whose tokens are counted."""
    method: Method
    """`bm25` and `dense` retrieve; `random` draws from the general corpus; `seeds` takes the seeds
    themselves (SSAE's validation data); `domain` draws from the domain's own train split."""
    dense: str | None = None
    """Dense index of `retrieval.dense`, for the method `dense`."""
    tokens: PositiveInt
    """Text tokens to select, matched to within one document."""
    seeds: Seeds = Seeds()
    combine: Combination | None = None
    """How a document's scores against the seeds become one: their `mean`, which is what one query
    of all seeds would give, as the scores are linear in the query; their `max`; the `best_rank`
    that it has in a seed's own list, as if the lists were read in turns; or the sum of its
    `reciprocal_rank`s in all lists (Cormack et al. 2009), which the scores' scale does not move.
    Null is `reciprocal_rank` where the method retrieves: SSAE does not say, and of the four it
    found most documents of domains that no result is reported on."""
    tracin: TracIn | None = None
    """Rerank what was retrieved by its influence on the seeds' loss."""
    seed: NonNegativeInt | None = None
    """Of the draw of `random` and `domain`; null is 0 there."""

    @property
    def drawn_from(self) -> str:
        """The corpus whose documents are taken, and whose tokens are counted."""
        return self.domain if self.method in ("seeds", "domain") else self.corpus

    @property
    def retrieves(self) -> bool:
        """Whether the method ranks by an index."""
        return self.method in ("bm25", "dense")

    @property
    def index(self) -> str | None:
        """Name of the index of `corpus` that is searched, if the method retrieves."""
        return {"bm25": BM25_INDEX, "dense": self.dense}.get(self.method)

    @property
    def combination(self) -> Combination:
        """How scores against the seeds are combined."""
        return self.combine or "reciprocal_rank"

    @property
    def label(self) -> str:
        """The method as it stands in `selection.parquet`."""
        return f"{self.method}+tracin" if self.tracin else self.method

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> Selection:
        if (self.dense is None) == (self.method == "dense"):
            raise ValueError(
                f"method {self.method!r} needs dense, the name of a dense index"
                if self.dense is None
                else f"dense belongs to the method 'dense', not to {self.method!r}"
            )
        for key in ("combine", "tracin"):
            if getattr(self, key) is not None and not self.retrieves:
                raise ValueError(f"{key} needs a method that retrieves, not {self.method!r}")
        if self.seed is not None and self.method not in ("random", "domain"):
            raise ValueError(f"seed belongs to 'random' and 'domain', not to {self.method!r}")
        return self

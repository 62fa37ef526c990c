"""What the debiasing experiment does: SHIFT of Marks et al. 2024 and the rows of SSAE's Table 1.

Defaults are those of the paper and of the code behind it; what neither states says so.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from saeflow.settings import Settings

Signs = Literal["positive", "both"]

KEYWORDS = (
    "nurse",
    "healthcare",
    "hospital",
    "patient",
    "medical",
    "clinic",
    "triage",
    "medication",
    "emergency",
    "surgery",
    "professor",
    "academia",
    "research",
    "university",
    "tenure",
    "faculty",
    "dissertation",
    "sabbatical",
    "publication",
    "grant",
)
"""Concepts of the bottleneck probe (Marks et al., appendix)."""

SHIPPED_DECISIONS = ("pythia70m_bias_in_bios",)
"""Decisions of people that come with the package."""


def _two(values: dict[str, str]) -> dict[str, str]:
    if len(values) != 2 or len(set(values.values())) != 2:
        raise ValueError(f"name two classes with two different values, not {values}")
    return values


class Classes(Settings):
    """A label of the documents, and the two of its classes that are told apart."""

    label: str
    """Its name among a document's labels."""
    values: Annotated[dict[str, str], AfterValidator(_two)]
    """Name of each class to its value in the documents. The first is class 0; people of class 0
    of both labels, and those of class 1 of both, make the ambiguous set. In `LabHC/bias_in_bios`
    professor is 21 and nurse 13, male is 0 and female 1."""


class Sizes(Settings):
    """How many biographies of each subgroup; null is as many as the smallest subgroup has."""

    ambiguous_train: PositiveInt | None = None
    """Of each of the two subgroups that train the biased probe (the paper has 11,200)."""
    balanced_train: PositiveInt | None = None
    """Of each of the four that train the oracle (the paper has 1,120)."""
    test: PositiveInt | None = None
    """Largest number of each of the four that are tested on; null is all of each, and the balanced
    set is then as many of each as the smallest has (the paper has 434)."""
    judge: PositiveInt = 50
    """Largest number of each of the four, from the validation split, on which latents are judged
    and named. The paper has a person in place of it; 200 texts suffice to tell a pronoun."""


class Probe(Settings):
    """The linear probe, in all of its trainings."""

    learning_rate: PositiveFloat = 0.01
    """Of AdamW."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Of AdamW; not stated, PyTorch's own."""
    epochs: PositiveInt = 1
    """Passes over the training set."""
    batch_size: PositiveInt = 128
    """Biographies a step."""


class Attribution(Settings):
    """Integrated gradients of the probe's confidence on the ambiguous training set."""

    examples: PositiveInt = 100
    """Biographies that effects are averaged over."""
    batch_size: PositiveInt = 4
    """Biographies a pass; changes rounding alone."""
    steps: PositiveInt = 10
    """Points on the path of each site."""
    path: Literal["latents", "joint"] = "latents"
    """What goes to zero: the latents, while the error stays (the paper), or both (its code)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the path's points but for the first; bfloat16 takes two thirds of the time and
    changes effects by about 1%."""
    threshold: PositiveFloat = 0.1
    """Latents with a larger signed effect go to the judge (67 in the paper)."""


class Circuit(Settings):
    """Which nodes and edges of the classifier's circuit are kept."""

    node_threshold: PositiveFloat = 0.1
    """Nodes have a larger effect than this; latents of the circuit are counted by it too."""
    edge_threshold: PositiveFloat = 0.01
    """Edges have a larger effect than this."""
    signs: Signs = "positive"
    """Which effects are held against the thresholds: signed ones, so that what is kept makes the
    classifier confident, as in the published circuits of Bias in Bios, or absolute ones."""
    examples: PositiveInt = 100
    """Biographies that edges are averaged over; of those of the attribution, the first."""


class ConceptBottleneck(Settings):
    """The concept bottleneck probe, which sees similarities to concepts alone."""

    keywords: tuple[str, ...] = Field(default=KEYWORDS, min_length=2)
    """Words that stand for the concepts."""
    normalise: Literal["concepts", "both"] = "both"
    """Divide similarities by the norm of the concept (the text of Marks et al.) or by that of the
    pooled activation as well (their code, which made the published number)."""


class Skyline(Settings):
    """What ablating the units with the largest effect on predicted gender would do."""

    count: PositiveInt | None = None
    """Units that are ablated, of random latents too; null is as many as SHIFT ablates with the
    first kind of SAE, as in the paper, where that was 55."""
    steps: PositiveInt = 10
    """Points on the path of each site."""


class Slice(Settings):
    """Cutting an SAE down to a part of its latents."""

    share: float = Field(default=1 / 8, gt=0, le=1)
    """Share of the latents that are kept."""
    rule: Literal["frequency", "attribution", "first"] = "frequency"
    """Keep those most often active on the ambiguous training text, those with the largest absolute
    effect, or the first. Not stated; frequency needs no labels, and so is what somebody who wants
    a small SAE would do."""


class Judge(Settings):
    """Telling latents of gender from latents of the profession without a person."""

    statistic: Literal["mean", "max"] = "mean"
    """What a biography's activation is: the mean over its tokens, as the probe reads them, or the
    largest, which says little of latents that are active everywhere."""
    margin: float = Field(default=0.1, ge=0, lt=0.5)
    """By how much the association with gender must exceed that with the profession; both are
    |AUROC - 0.5|, each within the classes of the other label. 0.1 is about two standard errors on
    200 biographies: latents that tell neither are kept."""
    min_activations: PositiveInt = 5
    """Latents that are active on fewer of the judged biographies are kept: nothing is known of
    them."""


class DebiasSettings(Settings):
    """One run: one seed of every method."""

    sites: Annotated[dict[str, str], Field(min_length=1)]
    """Short name of each site to the module that it is, in the order of the forward pass."""
    probe_site: str
    """Module whose mean over a biography's tokens the probe reads; the paper's choice is the last
    block but one, where accuracy on the ambiguous set was highest."""
    professions: Classes = Classes(
        label="profession", values={"professor": "professor", "nurse": "nurse"}
    )
    """What the probe is to tell."""
    genders: Classes = Classes(label="gender", values={"male": "male", "female": "female"})
    """What it must not go by."""
    on_unlabelled: Literal["refuse", "drop"] = "refuse"
    """A document without one of the two labels ends the job, or is dropped and counted."""
    max_tokens: PositiveInt | None = None
    """Tokens of a biography that are read, the begin token included; null is the context."""
    batch_tokens: PositiveInt = 4096
    """Tokens, padding included, in one pass that asks for no gradient."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the passes that the probe reads; `auto` is bfloat16 where the device computes
    in it, which takes less than half of the time there and changes activations by about 0.4%. What
    is ablated is computed in float32 in any case."""
    sizes: Sizes = Sizes()
    """How many biographies."""
    probe: Probe = Probe()
    """The classifier."""
    attribution: Attribution = Attribution()
    """How latents are found."""
    circuit: Circuit = Circuit()
    """What is drawn of them."""
    judge: Judge = Judge()
    """Who decides on them."""
    person: dict[str, str] = Field(default_factory=dict)
    """By kind of SAE, a file of latents that a person judged, in place of the judge: below
    `data_dir`, or `pythia70m_bias_in_bios`, the 55 and 12 published for the Pythia SAEs."""
    cbp: ConceptBottleneck = ConceptBottleneck()
    """The concept bottleneck."""
    skyline: Skyline = Skyline()
    """The skylines."""
    slice: Slice = Slice()
    """The compressed SAEs."""
    top_tokens: PositiveInt = 3
    """Tokens that name a latent in tables and drawings."""

    @model_validator(mode="after")
    def _sites_are_distinct(self) -> DebiasSettings:
        modules = list(self.sites.values())
        if len(set(modules)) < len(modules):
            raise ValueError(f"sites names a module twice: {modules}")
        return self

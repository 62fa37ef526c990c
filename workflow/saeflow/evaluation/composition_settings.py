"""How the SAE that composition is measured by is built and trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from saeflow.settings import Settings

Share = Annotated[float, Field(ge=0, lt=1)]


class CompositionSettings(Settings):
    """The meta-SAE: a BatchTopK SAE trained on the decoder vectors of another SAE.

    Defaults are those of SAEBench's `meta_structure`, which follows Matryoshka's Appendix D.1
    (Bussmann et al. 2025); width and k are OrtSAE's as well. Its window for dead latents is longer
    than its training, so that there is no AuxK term.
    """

    width_ratio: float = Field(default=0.25, gt=0)
    """Latents of the meta-SAE, as a share of the SAE's; rounded up, and at least k."""
    k: PositiveInt = 4
    """Mean number of active latents for a decoder vector."""
    steps: PositiveInt = 1500
    """Optimisation steps."""
    batch_size: PositiveInt = 1024
    """Decoder vectors a step, drawn uniformly with replacement."""
    learning_rate: PositiveFloat = 5e-4
    """Adam's rate, the same at every step; no weight decay."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Adam's betas."""
    random_reference: bool = True
    """Also measure random vectors of the decoder's shape, once a seed. They have nothing in common,
    and a meta-SAE explains some of them all the same: as much as its size lets it learn by heart.
    """

"""What decides a TracIn score: the SAE whose loss has the gradients, and how they are compared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from saeflow.settings import Settings


class TracInSAE(Settings):
    """The trained SAE of the selection's subject and TracIn's site whose parameters are theta."""

    variant: str
    """Name in `variants`."""
    corpus: str
    """Corpus that it was trained on."""
    d_sae: PositiveInt
    l0: PositiveInt
    seed: int = 0


class TracIn(Settings):
    """Rerank candidates by the influence that a step on them would have on the seeds' loss.

    The SSAE paper names TracIn alone; which parameters, checkpoints and loss it uses is not
    stated. Here: all of the SAE's parameters, in the space of raw activations.
    """

    site: str
    """Site that the SAE reads."""
    sae: TracInSAE
    candidates: float = Field(default=4.0, ge=1)
    """The first stage hands over so many times the token budget; 1 leaves nothing to rerank but
    the order. 4 lets a quarter through, and costs one pass of the subject over four budgets."""
    loss: Literal["reconstruction", "total"] = "total"
    """The squared error alone, or with the L1 penalty, of an SAE that has one, at the checkpoint's
    coefficient. The default is what training descends; on domains that no result is reported on
    (scipy.signal, scipy.stats, sympy.polys) it also found more of their documents."""
    normalise: Literal["none", "tokens"] = "tokens"
    """A passage's loss is the sum over its tokens, or their mean. A sum ranks long passages first,
    and the budget is counted in tokens, so the default asks what a token is worth."""
    checkpoints: Literal["final", "all"] = "final"
    """The finished SAE, or the sum over its `training.snapshots` and itself, each weighted by its
    learning rate: that of the last step is next to nothing where the rate decays to zero.
    Snapshots have to be asked for, so the default needs none."""

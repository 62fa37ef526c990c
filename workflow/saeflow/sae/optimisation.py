"""One trainer for every variant: what a step does, and the state that changes with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saeflow.progress import say
from saeflow.sae.continued import Start, continued_sae
from saeflow.sae.extended import Sample, kept, put_back
from saeflow.sae.gradients import clip_gradients, normalise_rows, remove_parallel
from saeflow.sae.initial import initial_sae
from saeflow.sae.model import SAE, standardised
from saeflow.sae.objectives import L1Penalty, loss_terms, matryoshka_groups, run_step
from saeflow.sae.preactivations import Preactivations, chunk_rows
from saeflow.sae.ranks import ALONE, Ranks
from saeflow.sae.reduction import reduction
from saeflow.sae.selection import Cut
from saeflow.sae.settings import SAESettings, Training
from saeflow.sae.shared_selection import SelectSharedBatchTopK
from saeflow.sae.sparse import Pairs
from saeflow.sae.step import Step
from saeflow.sae.trained_parts import take_gradients, trained_parts
from saeflow.sae.training_activation import TrainingActivation, TrainingBatchTopK


class NonFiniteLoss(ValueError):
    """The loss is no number any more; the message gives the step and the place in the cache."""


class Outcome(NamedTuple):
    """What one step measured, before its update."""

    loss: float
    """What was minimised."""
    losses: dict[str, float]
    """Each term that was due, unweighted, as a mean over tokens."""
    step: Step
    """Of several ranks, this one's; the losses are those of the whole batch."""

    @property
    def explained_variance(self) -> float:
        """1 - variance of the error / variance of the target, both about their batch means."""
        step = self.step
        return 1 - (step.variance(step.error_bd) / step.variance(step.target_bd)).item()


class Trainer:
    """The autoencoder in training with everything that changes from step to step.

    Works in a scaled space (`input_scaling`), where the target is the activation or the error of
    the frozen SAE `base`; `finished` folds the scales back. `sample_nd` are activations (n, d_in)
    as they are in the cache, `mean_square` the mean square of the cache's entries. `ranks` are the
    processes that share every step, each with a trainer of its own; all hold the same weights. Of
    a variant with `init_from`, `start` is the SAE that is trained further. Raises ValueError for a
    `base` of another width, a `start` that does not fit and a batch that the ranks do not divide.
    """

    def __init__(
        self,
        settings: SAESettings,
        sample_nd: Tensor,
        mean_square: float,
        device: str = "cpu",
        base: SAE | None = None,
        ranks: Ranks = ALONE,
        start: Start | None = None,
    ) -> None:
        training = settings.training
        ranks.check(training.batch_size)
        self.ranks = ranks
        self.settings, self.training = settings, training
        self.steps = settings.steps
        self.base = _frozen(base, settings, sample_nd.shape[1])
        self.scales = _scales(training, sample_nd, mean_square, self.base)
        scale = self.scales.input * mean_square**0.5
        if training.input_scaling == "standardise":
            scale = 1.0
        if (start is None) != (settings.variant.init_from is None):
            raise ValueError("an SAE to start from goes with a variant with init_from")
        if start is None:
            x_nd, target_nd = self._scaled(sample_nd)
            self.sae = initial_sae(settings, x_nd, target_nd, scale).to(device)
        else:
            sample = Sample(sample_nd, self._scaled(sample_nd)[0], scale)
            self.sae = continued_sae(settings, start.sae, sample, self.scales.input).to(device)
        self.base = None if self.base is None else self.base.to(device)
        ranks.adopt(self.sae.parameters())
        if ranks.size > 1 and isinstance(self._activation, TrainingBatchTopK):
            if training.selection != "float32" and ranks.rank == 0:
                say("several processes select BatchTopK's latents in float32")
            self._activation.selection = SelectSharedBatchTopK(settings.l0, ranks)
        self.kept = None if start is None else kept(settings, start.sae)
        self.parameters = trained_parts(self.sae, settings.frozen_latents)
        self.optimiser = torch.optim.Adam(
            self.parameters.values(), lr=training.learning_rate, betas=training.betas, fused=True
        )
        self.terms = loss_terms(settings, self.sae.d_in)
        for term in self.terms:
            if start is not None and start.l1 is not None and isinstance(term, L1Penalty):
                term.go_on(start.l1 * self.scales.target)
        self.reduce = reduction(settings.variant, self.steps)
        nested, sizes = settings.variant.matryoshka, (settings.d_sae, settings.added_latents)
        self.group_f = None if nested is None else matryoshka_groups(nested, *sizes, device)
        self.idle_tokens_f = torch.zeros(settings.d_sae, dtype=torch.int64, device=device)
        self.index = 0

    def step(self, raw_bd: Tensor, sequence_b: Tensor | None = None) -> Outcome:
        """Take one optimisation step on activations (batch, d_in) as they are in the cache.

        `sequence_b` (batch,) numbers each token's document; a tilt over sequences needs it. Of
        several ranks each gives its slice of the batch. Raises NonFiniteLoss, on all ranks, before
        anything is updated.
        """
        self.optimiser.zero_grad()  # first, so that the selection has their memory
        self.sae.zero_grad()
        sae = self.sae
        with torch.no_grad():
            x_bd, target_bd = self._scaled(raw_bd)
            sequence_b = None if sequence_b is None else sequence_b.to(raw_bd.device)
            input_bd = sae.encoder_input(x_bd)
            selected = self._select(input_bd)
        dead_f = self.dead_f
        dead_f[: self.settings.frozen_latents] = False  # no term can revive them
        now = (self.group_f, dead_f, self.index, sequence_b, self.ranks)
        step = run_step(sae, target_bd, input_bd, selected, *now)
        loss, outcome = self._losses(step)
        if not math.isfinite(outcome.loss):
            raise self._non_finite("loss", outcome.loss, outcome)
        loss.backward()
        take_gradients(self.parameters, sae, self.settings.frozen_latents)
        self._update(outcome)
        self._count(step)
        return outcome

    def _select(self, input_bd: Tensor) -> tuple[Pairs, Tensor]:
        """Return the selected pairs; weights laid out for the product are gone after it."""
        product = Preactivations(input_bd, self.sae.W_enc, self.sae.b_enc)
        return self._activation.select(product, (len(input_bd), self.sae.d_sae))

    @property
    def _activation(self) -> TrainingActivation:
        assert isinstance(self.sae.activation, TrainingActivation)
        return self.sae.activation

    @torch.no_grad()
    def _scaled(self, raw_bd: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scaled input and target of activations as they are in the cache."""
        if self.training.input_scaling == "standardise":
            x_bd = standardised(raw_bd).x_bd
            return x_bd, x_bd
        x_bd = raw_bd * self.scales.input
        if self.base is None:
            return x_bd, x_bd
        return x_bd, error_of(self.base, raw_bd) * self.scales.target

    def _losses(self, step: Step) -> tuple[Tensor, Outcome]:
        """Return the loss to differentiate, and what all ranks together measured."""
        weighted, means = {}, {}
        for term in self.terms:
            if (loss := term(self.sae, step)) is not None:
                weighted[term.name] = term.weight * loss
                means[term.name] = loss.detach().mean()
        loss = self.reduce(weighted, step)
        measured = self.ranks.mean(torch.stack([loss.detach(), *means.values()])).tolist()
        losses = dict(zip(means, measured[1:], strict=True))
        return loss, Outcome(measured[0], losses, step)

    def _non_finite(self, what: str, value: float, outcome: Outcome) -> NonFiniteLoss:
        return NonFiniteLoss(f"{what} is {value} at step {self.index}, {outcome.losses}")

    @torch.no_grad()
    def _update(self, outcome: Outcome) -> None:
        self.ranks.average_gradients(self.parameters.values())
        W_dec, unit = self.parameters["W_dec"], self.settings.variant.decoder_norm == "unit"
        assert W_dec.grad is not None
        if unit:
            remove_parallel(W_dec.grad, W_dec)
        norm = clip_gradients(self.parameters.values(), self.training.clip_norm or math.inf)
        if not math.isfinite(norm):
            raise self._non_finite("gradient norm", norm, outcome)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.training, self.index, self.steps)
        self.optimiser.step()
        if unit:
            normalise_rows(W_dec)
        self._activation.after_update()

    def _count(self, step: Step) -> None:
        fired_f = torch.zeros_like(self.idle_tokens_f, dtype=torch.bool)
        fired_f[step.pairs.latents_p[step.values_p.detach() > 0]] = True
        self.idle_tokens_f += step.tokens
        self.idle_tokens_f[self.ranks.any_of(fired_f)] = 0
        self.index += 1

    @property
    def dead_f(self) -> Tensor:
        """Latents that have not fired for `dead_after_tokens`, bool (d_sae,)."""
        return self.idle_tokens_f >= self.training.dead_after_tokens

    @property
    def weights(self) -> dict[str, float]:
        """The present weight of each loss term."""
        return {term.name: term.weight for term in self.terms}

    @property
    def threshold(self) -> float | None:
        """BatchTopK's calibrated inference threshold, in the scaled space."""
        return getattr(self._activation, "threshold", None) if self.needs_calibration else None

    @torch.no_grad()
    def count(self, cut: Cut, raw_bd: Tensor) -> None:
        """Add the pre-activations of activations (batch, d_in) to `cut`."""
        sae = self.sae
        input_bd = sae.encoder_input(self._scaled(raw_bd)[0])
        cut.add(Preactivations(input_bd, sae.W_enc, sae.b_enc))

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Set the inference threshold with which the mean L0 over raw `batches` is k.

        With frozen weights, and one cut for all batches: a mean of the batches' own cuts, which
        follow the weights while they train, would have another L0. Of several ranks each gives its
        slices of the batches.
        """
        cut, rows = Cut(self.idle_tokens_f.device), 0
        for raw_bd in batches:
            self.count(cut, raw_bd)
            rows += len(raw_bd) * self.ranks.size
        self.set_threshold(cut, rows)

    def set_threshold(self, cut: Cut, rows: int) -> None:
        """Set the inference threshold with which the `rows` tokens of `cut` have k latents each.

        Of several ranks each gives the cut of its own slices, and the rows of all.
        """
        assert isinstance(self._activation, TrainingBatchTopK)
        cut.counts = self.ranks.sum(cut.counts)
        self._activation.threshold = cut.threshold(self.settings.l0 * rows)

    @property
    def needs_calibration(self) -> bool:
        """Whether inference has a threshold that training has not."""
        return isinstance(self._activation, TrainingBatchTopK)

    @torch.no_grad()
    def finished(self) -> SAE:
        """Return a copy for inference that reads and writes activations as they are in the cache.

        Input and target scale and free decoder norms are folded into the other weights: decoder
        rows have unit norm, and a latent's activation is its part's length. What `extend` froze is
        as it was. Raises RuntimeError for BatchTopK before `calibrate`.
        """
        sae, scales = self.sae, self.scales
        norm_f1 = torch.ones_like(sae.W_dec[:, :1])
        if self.settings.variant.decoder_norm == "free":
            norm_f1 = sae.W_dec.norm(dim=1, keepdim=True).clamp_min(torch.finfo().tiny)
        rescale_f = norm_f1[:, 0] / scales.target
        finished = SAE(
            sae.W_enc * (rescale_f * scales.input),
            sae.W_dec / norm_f1,
            sae.b_enc * rescale_f,
            sae.b_dec / scales.target,
            self._activation.finished(sae.b_enc, rescale_f),
            apply_b_dec_to_input=sae.apply_b_dec_to_input,
            standardise=self.training.input_scaling == "standardise",
        )
        if self.kept is not None:
            put_back(self.settings, finished, self.kept)
        return finished

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and numbers from which `restore` goes on bit for bit (on the CPU)."""
        tensors: dict[str, Tensor] = {"idle_tokens": self.idle_tokens_f}
        for name, parameter in self.parameters.items():
            tensors[name] = parameter
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment}.{name}"] = self.optimiser.state[parameter][moment]
        return tensors, {
            "index": self.index,
            "weights": self.weights,
            "memories": {term.name: term.memory for term in self.terms},
            "reduction": self.reduce.memory,
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take over a saved state; memory layouts stay those of a fresh trainer."""
        self.idle_tokens_f.copy_(tensors["idle_tokens"])
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])
            state = self.optimiser.state[parameter]
            state["step"] = torch.tensor(float(numbers["index"]), device=parameter.device)
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = torch.empty_like(parameter).copy_(tensors[f"{moment}.{name}"])
        for term in self.terms:
            term.weight = numbers["weights"][term.name]
            term.memory = numbers["memories"][term.name]
        self.reduce.memory = numbers["reduction"]
        self.index = numbers["index"]


class Scales(NamedTuple):
    """Factors from the cache's space to the trainer's."""

    input: float
    target: float


def _scales(training: Training, sample_nd: Tensor, mean_square: float, base: SAE | None) -> Scales:
    """Return what brings input and target to the size that `input_scaling` asks for."""

    def factor(mean_square: float) -> float:
        match training.input_scaling:
            case "rms":
                return mean_square**-0.5
            case "unit_norm":
                return (mean_square * sample_nd.shape[1]) ** -0.5
        return 1.0

    scale = factor(mean_square)
    if base is None:
        return Scales(scale, scale)
    left = error_of(base, sample_nd).square().mean().item()
    if not left:
        raise ValueError("the frozen SAE has no error on these activations: nothing is left to do")
    return Scales(scale, factor(left))


def _frozen(base: SAE | None, settings: SAESettings, d_in: int) -> SAE | None:
    """Return `base` without gradient, after checking that it is there and fits."""
    if (base is None) != (settings.variant.error_of is None):
        raise ValueError("a frozen SAE is needed where the variant has error_of, and only there")
    if base is not None and base.d_in != d_in:
        raise ValueError(f"the frozen SAE reads width {base.d_in}, the activations have {d_in}")
    return None if base is None else base.requires_grad_(False)


@torch.no_grad()
def error_of(base: SAE, x_bd: Tensor) -> Tensor:
    """Return x less its reconstruction by `base` (batch, d_in), row chunk by row chunk."""
    rows = chunk_rows(len(x_bd), base.d_sae, x_bd.is_cuda)
    return torch.cat([part - base(part) for part in x_bd.split(rows)])


def learning_rate(training: Training, index: int, steps: int) -> float:
    """Return the rate of step `index`: linear warm-up, constant, linear decay towards zero."""
    rising = (index + 1) / max(1.0, training.warmup * steps)
    falling = (steps - index) / max(1.0, training.decay * steps)
    return training.learning_rate * min(1.0, rising, falling)

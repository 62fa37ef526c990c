"""One trainer for every variant: what a step does, and the state that changes with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from saeflow.sae.activation_functions import JumpReLU, TopK
from saeflow.sae.initial import initial_sae
from saeflow.sae.model import SAE
from saeflow.sae.objectives import Step, loss_terms, matryoshka_groups, run_step, total
from saeflow.sae.selection import Cut, Preactivations
from saeflow.sae.settings import SAESettings, Training
from saeflow.sae.training_activation import training_selection


class NonFiniteLoss(ValueError):
    """The loss is no number any more; the message gives the step and the place in the cache."""


class Outcome(NamedTuple):
    """What one step measured, before its update."""

    loss: float
    """The weighted sum."""
    losses: dict[str, float]
    """Each term that was due, unweighted."""
    step: Step

    @property
    def explained_variance(self) -> float:
        """1 - variance of the error / variance of the input, both about their batch means."""
        unexplained = self.step.error_bd.var(0).sum() / self.step.x_bd.var(0).sum()
        return 1 - unexplained.item()


class Trainer:
    """The autoencoder in training with everything that changes from step to step.

    Works in a space where the mean square of an input entry is 1 (`input_scaling: rms`);
    `finished` folds the factor back.
    """

    def __init__(
        self, settings: SAESettings, sample_nd: Tensor, mean_square: float, device: str = "cpu"
    ) -> None:
        training = settings.training
        self.settings, self.training = settings, training
        self.steps = training.tokens // training.batch_size
        self.scale = mean_square**-0.5 if training.input_scaling == "rms" else 1.0
        self.sae = initial_sae(settings, sample_nd * self.scale).to(device)
        self.optimiser = torch.optim.Adam(
            self.sae.parameters(), lr=training.learning_rate, betas=training.betas, fused=True
        )
        self.terms = loss_terms(settings, self.sae.d_in)
        self.select = training_selection(settings)
        self.preactivations = Preactivations()
        nested = settings.variant.matryoshka
        self.group_f = None if nested is None else matryoshka_groups(nested, settings.d_sae, device)
        self.idle_tokens_f = torch.zeros(settings.d_sae, dtype=torch.int64, device=device)
        self.threshold: float | None = None
        self.index = 0

    def step(self, raw_bd: Tensor) -> Outcome:
        """Take one optimisation step on activations (batch, d_in) as they are in the cache.

        Raises NonFiniteLoss before anything is updated.
        """
        sae, x_bd = self.sae, raw_bd * self.scale
        with torch.no_grad():
            input_bd = sae.encoder_input(x_bd)
            chunks = self.preactivations(input_bd, sae.W_enc, sae.b_enc)
            selected = self.select(chunks, (len(x_bd), sae.d_sae))
        step = run_step(sae, x_bd, input_bd, selected, self.group_f, self.dead_f, self.index)
        loss, losses = self._losses(step)
        outcome = Outcome(loss.item(), losses, step)
        if not math.isfinite(outcome.loss):
            raise NonFiniteLoss(f"loss is {outcome.loss} at step {self.index}, {losses}")
        self.optimiser.zero_grad()
        loss.backward()
        self._update()
        self._count(step)
        return outcome

    def _losses(self, step: Step) -> tuple[Tensor, dict[str, float]]:
        weighted, losses = [], {}
        for term in self.terms:
            weight = term.weight
            if (loss := term(self.sae, step)) is not None:
                weighted.append(weight * loss)
                losses[term.name] = loss.item()
        return torch.stack(weighted).sum(), losses

    @torch.no_grad()
    def _update(self) -> None:
        W_dec = self.sae.W_dec
        assert W_dec.grad is not None
        along = (W_dec.grad * W_dec).sum(1, keepdim=True)
        W_dec.grad.addcmul_(W_dec, along, value=-1)
        if self.training.clip_norm is not None:
            clip_gradients(self.sae, self.training.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.training, self.index, self.steps)
        self.optimiser.step()
        W_dec.div_(W_dec.norm(dim=1, keepdim=True))

    def _count(self, step: Step) -> None:
        self.idle_tokens_f += len(step.x_bd)
        self.idle_tokens_f[step.pairs.latents_p] = 0
        self.index += 1

    @property
    def dead_f(self) -> Tensor:
        """Latents that have not fired for `dead_after_tokens`, bool (d_sae,)."""
        return self.idle_tokens_f >= self.training.dead_after_tokens

    @property
    def weights(self) -> dict[str, float]:
        """The present weight of each loss term."""
        return {term.name: term.weight for term in self.terms}

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Set the inference threshold with which the mean L0 over raw `batches` is k.

        With frozen weights, and one cut for all batches: a mean of the batches' own cuts, which
        follow the weights while they train, would have another L0.
        """
        sae, rows, cut = self.sae, 0, Cut(self.idle_tokens_f.device)
        for raw_bd in batches:
            input_bd = sae.encoder_input(raw_bd * self.scale)
            cut.add(self.preactivations(input_bd, sae.W_enc, sae.b_enc))
            rows += len(raw_bd)
        self.threshold = cut.threshold(self.settings.l0 * rows)

    @property
    def needs_calibration(self) -> bool:
        """Whether inference has a threshold that training has not."""
        return self.settings.variant.activation == "batchtopk"

    def finished(self) -> SAE:
        """Return a copy for inference, with the input scale folded into biases and threshold.

        Latents are rescaled rather than decoder rows, which keep unit norm. Raises RuntimeError
        for BatchTopK before `calibrate`.
        """
        sae = self.sae
        return SAE(
            sae.W_enc.detach().clone(),
            sae.W_dec.detach().clone(),
            sae.b_enc.detach() / self.scale,
            sae.b_dec.detach() / self.scale,
            self._inference_activation(),
        )

    def _inference_activation(self) -> nn.Module:
        match self.settings.variant.activation:
            case "relu":
                return nn.ReLU()
            case "topk":
                return TopK(self.settings.l0)
            case "batchtopk":
                if self.threshold is None:
                    raise RuntimeError("BatchTopK has no inference threshold before calibrate()")
                threshold_f = torch.full((self.settings.d_sae,), self.threshold / self.scale)
                return JumpReLU(threshold_f.to(self.idle_tokens_f.device))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and numbers from which `restore` goes on bit for bit (on the CPU)."""
        tensors: dict[str, Tensor] = {"idle_tokens": self.idle_tokens_f}
        for name, parameter in self.sae.named_parameters():
            tensors[name] = parameter
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment}.{name}"] = self.optimiser.state[parameter][moment]
        return tensors, {
            "index": self.index,
            "weights": self.weights,
            "memories": {term.name: term.memory for term in self.terms},
        }

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take over a saved state; memory layouts stay those of a fresh trainer."""
        self.idle_tokens_f.copy_(tensors["idle_tokens"])
        for name, parameter in self.sae.named_parameters():
            parameter.copy_(tensors[name])
            state = self.optimiser.state[parameter]
            state["step"] = torch.tensor(float(numbers["index"]), device=parameter.device)
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = torch.empty_like(parameter).copy_(tensors[f"{moment}.{name}"])
        for term in self.terms:
            term.weight = numbers["weights"][term.name]
            term.memory = numbers["memories"][term.name]
        self.index = numbers["index"]


def clip_gradients(sae: SAE, limit: float) -> None:
    """Scale all gradients so that their joint norm is at most `limit`."""
    gradients = [p.grad for p in sae.parameters() if p.grad is not None]
    squares = [total(g.square()) for g in gradients]
    factor = (limit / torch.stack(squares).sum().sqrt()).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factor)


def learning_rate(training: Training, index: int, steps: int) -> float:
    """Return the rate of step `index`: linear warm-up, constant, linear decay towards zero."""
    rising = (index + 1) / max(1.0, training.warmup * steps)
    falling = (steps - index) / max(1.0, training.decay * steps)
    return training.learning_rate * min(1.0, rising, falling)

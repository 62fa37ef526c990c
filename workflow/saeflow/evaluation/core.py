"""The core evaluation: reconstruction, sparsity, decoder geometry and loss with the SAE spliced in.

Definitions. Rows are the tokens that the activation cache would hold (`activations.exclude`):
no padding, special tokens, skipped first positions or attention sinks. At these, and only there,
the site's output is replaced: by decode(encode(x)) without an error term, or by zeros for the
ablation; all other positions keep their clean activation. Cross entropy and KL divergence are
averaged over the next-token predictions made *from* replaced positions, as in SAEBench, whose
mask of special tokens also governs both the replacement and the average.

A residual SAE, trained on the error of a frozen base, is judged and spliced in as base(x) +
residual(x). Whatever is said of latents is about its own ones: l0, dead_latents, the decoder
cosines, and the rows of `latents.parquet`. The latents of the base come on top.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from saeflow.activations.rows import has_bfloat16
from saeflow.artifacts import (
    MANIFEST,
    ArtifactError,
    Clock,
    atomic_path,
    begin,
    file_digest,
    read_manifest,
    rebuild_command,
    write_manifest,
)
from saeflow.evaluation.decoder import max_decoder_cosine, random_decoder
from saeflow.evaluation.downstream import ZERO, Downstream, Run
from saeflow.evaluation.held_out import Exclusion, held_out_batches, read_exclusion
from saeflow.evaluation.moments import Moments
from saeflow.evaluation.reconstruction import Reconstruction
from saeflow.evaluation.rows import Point, Row, make_row, write_rows
from saeflow.evaluation.settings import CoreSettings
from saeflow.fingerprint import fingerprint
from saeflow.progress import Progress
from saeflow.sae.boosted import Boosted
from saeflow.sae.formats import load_sae
from saeflow.sae.identity import sae_digest
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject, load_subject
from saeflow.subjects.sites import run_to_sites
from saeflow.subjects.splice import run_from_site

ROWS, LATENTS = "core.parquet", "latents.parquet"


def evaluate_core(
    settings: CoreSettings,
    saes: Mapping[int, Path],
    *,
    subject: Path,
    tokens: Path,
    activations: Path,
    point: Point,
    out: Path,
    bases: Mapping[int, Path] | None = None,
    device: str = "cpu",
) -> None:
    """Measure the SAEs of one point (checkpoint folders by seed) in one pass over held-out text.

    `activations` is a cache of the point's subject and corpus; only its manifest is read, for the
    exclusion rule. `bases` are the frozen SAEs of residual ones by seed, in any layout that
    `load_sae` reads. Writes `core.parquet` (tidy rows), `latents.parquet` (one row a split, seed
    and latent) and the manifest into the folder `out`. Decoder metrics do not depend on the split
    and are repeated in each. Raises ArtifactError for an SAE that is damaged, of another point, of
    another cache or of another base, and ValueError for one that does not fit the site or its base
    and for text without variance.
    """
    clock, out, bases = Clock(), begin(out), bases or {}
    if not saes:
        raise ValueError(f"no SAEs given for {point}")
    for seed, folder in saes.items():
        _check_origin(folder, seed, point, activations, bases.get(seed))
    model = load_subject(subject, device)
    loaded = _loaded(saes, bases, device)
    low = settings.precision == "bfloat16" or (
        settings.precision == "auto" and has_bfloat16(model.device.type)
    )
    rule = read_exclusion(activations, model.special_ids)
    decoders = {seed: _decoder(sae, seed) for seed, sae in loaded.items()}
    rows: list[Row] = []
    latents: list[pa.Table] = []
    for split, budget in settings.splits.items():
        measured = _Measured(model, loaded, point.site, low)
        with Progress(total=budget, unit="tok", what=f"evaluating {point.variant}") as progress:
            for batch in held_out_batches(tokens, split, budget, settings.batch_tokens):
                _measure(measured, rule, *batch)
                progress.update(int(batch[1].sum()))
        for seed in loaded:
            rows.extend(_rows(measured, decoders[seed], point, split, seed))
            latents.append(_latents(measured, decoders[seed], point, split, seed))
    write_rows(out / ROWS, rows)
    with atomic_path(out / LATENTS) as temporary:
        pq.write_table(pa.concat_tables(latents), temporary)
    write_manifest(
        out,
        kind="metrics",
        settings={"core": settings.model_dump(), "point": point._asdict()},
        files=[ROWS, LATENTS],
        inputs={
            "subject": subject,
            "tokens": tokens,
            "activations": activations,
            **{f"seed{seed}": folder for seed, folder in saes.items()},
        },
        stats={"bases": {f"seed{seed}": str(path) for seed, path in bases.items()}},
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def _check_origin(
    folder: Path, seed: int, point: Point, activations: Path, base: Path | None
) -> None:
    """Raise ArtifactError unless `folder` holds the point's SAE of that seed, cache and base."""
    manifest = read_manifest(folder, kind="sae", deep=True)
    settings = manifest["settings"]
    expected = {"d_sae": point.d_sae, "l0": point.l0_target, "seed": seed}
    wrong = [f"{k} {settings.get(k)} for {v}" for k, v in expected.items() if settings.get(k) != v]
    if (site := manifest["stats"].get("site")) != point.site:
        wrong.append(f"site {site} for {point.site}")
    trained_on = manifest["inputs"].get("activations", {}).get("sha256")
    if trained_on != file_digest(activations / MANIFEST):
        wrong.append(f"another activation cache for {activations}")
    wrong.extend(_base_mistakes(manifest["stats"].get("base"), base))
    if wrong:
        raise ArtifactError(
            f"{folder} does not hold the SAE of this point: it has {', '.join(wrong)}; "
            f"train it anew with: {rebuild_command(folder)}"
        )


def _base_mistakes(trained_on: str | None, base: Path | None) -> Iterator[str]:
    """Yield what is wrong with `base` for an SAE trained on the error of the SAE `trained_on`."""
    if trained_on is None and base is not None:
        yield f"no frozen base for {base}"
    elif trained_on is not None and base is None:
        yield "a frozen base and none is given"
    elif base is not None and trained_on != sae_digest(base):
        yield f"another frozen base for {base}"


def _loaded(
    saes: Mapping[int, Path], bases: Mapping[int, Path], device: str
) -> dict[int, SAE | Boosted]:
    """Return the SAEs by rising seed, a residual one on top of its base; a base is loaded once."""
    frozen = {path: load_sae(path).to(device) for path in set(bases.values())}
    loaded: dict[int, SAE | Boosted] = {}
    for seed, folder in sorted(saes.items()):
        sae = load_sae(folder).to(device)
        loaded[seed] = Boosted(sae, frozen[bases[seed]]) if seed in bases else sae
    return loaded


class _Measured:
    """What accumulates over the batches of one split."""

    def __init__(
        self, subject: Subject, saes: Mapping[int, SAE | Boosted], site: str, low: bool
    ) -> None:
        self.subject, self.site, self.bfloat16 = subject, site, low
        d_in = next(iter(saes.values())).W_dec.shape[1]
        self.inputs = Moments(d_in, subject.device)
        self.saes = {seed: Reconstruction(sae) for seed, sae in saes.items()}
        self.downstream = Downstream(subject, [ZERO, *saes], bfloat16=low)

    def arithmetic(self) -> torch.autocast:
        """Return the context of the subject's passes."""
        return torch.autocast(self.subject.device.type, torch.bfloat16, enabled=self.bfloat16)


class _Decoder(NamedTuple):
    nearest_f: Tensor
    """Each latent's largest cosine to another decoder vector."""
    random: float
    """Mean of the same for random vectors of that shape."""


@torch.no_grad()
def _decoder(sae: SAE | Boosted, seed: int) -> _Decoder:
    d_sae, d_in = sae.W_dec.shape
    random = random_decoder(d_sae, d_in, seed, str(sae.W_dec.device))
    return _Decoder(max_decoder_cosine(sae.W_dec), float(max_decoder_cosine(random).mean()))


@torch.no_grad()
def _measure(measured: _Measured, rule: Exclusion, tokens_bt: Tensor, lengths_b: Tensor) -> None:
    """Add one batch: the prefix once, then what follows the site once for each run."""
    subject, site = measured.subject, measured.site
    tokens_bt = tokens_bt.to(subject.device)
    with measured.arithmetic():
        acts = run_to_sites(subject, tokens_bt, sorted({site, *rule.thresholds}))
    acts_btd, kept_bt = acts[site], rule.kept(tokens_bt, lengths_b, acts)
    _check_width(measured, acts_btd.shape[-1])
    if not kept_bt.any():
        return
    # A prediction needs its target inside the window: not padding, not past the end.
    last_b = (lengths_b - 1).to(kept_bt.device)
    predicting_bt = kept_bt & (
        torch.arange(kept_bt.shape[1], device=kept_bt.device) < last_b[:, None]
    )
    x_nd = acts_btd[kept_bt].float()
    measured.inputs.update(x_nd)
    new: dict[Run, Tensor] = {ZERO: torch.zeros_like(x_nd)}
    new.update((seed, sae.update(x_nd)) for seed, sae in measured.saes.items())

    def final_states(run_btd: Tensor) -> Tensor:
        with measured.arithmetic():
            return run_from_site(subject, tokens_bt, site, run_btd)[predicting_bt]

    def replaced(new_nd: Tensor) -> Tensor:
        run_btd = acts_btd.clone()
        run_btd[kept_bt] = new_nd.to(run_btd.dtype)
        return run_btd

    altered = {run: final_states(replaced(new_nd)) for run, new_nd in new.items()}
    targets_n = tokens_bt.roll(-1, dims=1)[predicting_bt]
    measured.downstream.update(final_states(acts_btd), altered, targets_n)


def _check_width(measured: _Measured, width: int) -> None:
    d_in = measured.inputs.mean_d.shape[0]
    if width != d_in:
        raise ValueError(
            f"site {measured.site} of {measured.subject.name} is {width} wide, the SAEs read {d_in}"
        )


def _rows(
    measured: _Measured, decoder: _Decoder, point: Point, split: str, seed: int
) -> Iterator[Row]:
    inputs, downstream = measured.inputs, measured.downstream
    if inputs.n < 2 or inputs.variance() == 0:
        raise ValueError(
            f"split {split}: {inputs.n} rows at {point.site} without variance; explained variance "
            "is undefined"
        )
    for metric, value in measured.saes[seed].metrics(inputs).items():
        yield make_row(point, split=split, seed=seed, metric=metric, value=value, n=inputs.n)
    for metric, value in downstream.metrics(seed).items():
        yield make_row(point, split=split, seed=seed, metric=metric, value=value, n=downstream.n)
    cosine = float(decoder.nearest_f.double().mean())
    for metric, value in (
        ("mean_decoder_cosine", cosine),
        ("mean_decoder_cosine_random", decoder.random),
    ):
        yield make_row(point, split=split, seed=seed, metric=metric, value=value, n=point.d_sae)


def _latents(
    measured: _Measured, decoder: _Decoder, point: Point, split: str, seed: int
) -> pa.Table:
    """One row a latent; `mean_activation` is over rows where it fires, null if it never does."""
    sae, d_sae = measured.saes[seed], point.d_sae
    fired_f, total_f = sae.fired_f.cpu().numpy(), sae.activation_f.cpu().numpy()
    with np.errstate(invalid="ignore"):
        mean_f = total_f / fired_f
    return pa.table(
        {
            "split": [split] * d_sae,
            "variant": [point.variant] * d_sae,
            "d_sae": pa.array([d_sae] * d_sae, pa.int64()),
            "l0_target": pa.array([point.l0_target] * d_sae, pa.int64()),
            "seed": pa.array([seed] * d_sae, pa.int64()),
            "latent": pa.array(range(d_sae), pa.int64()),
            "max_decoder_cosine": decoder.nearest_f.double().cpu().numpy(),
            "firing_rate": fired_f / measured.inputs.n,
            "mean_activation": pa.array(mean_f, mask=fired_f == 0),
        }
    )

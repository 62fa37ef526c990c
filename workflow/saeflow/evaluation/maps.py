"""Token activations and decoder vectors of several SAEs in one plane (SSAE Fig. 19).

All decoder vectors and one sample of activations are embedded together, so that every SAE has the
same surroundings. Distances in a UMAP mean little beyond who is near whom; the number that stands
beside it, `decoder_spread`, is therefore taken in the space of activations: one minus the mean
cosine over all pairs of an SAE's decoder vectors.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from saeflow.activations.exclusion import read_exclusion
from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.evaluation.held_out import held_out_batches
from saeflow.evaluation.origin import Member, check_members, load_members
from saeflow.evaluation.pair_cosines import pair_cosines
from saeflow.evaluation.rows import Point, Row, make_row, write_rows
from saeflow.evaluation.settings import MapSettings
from saeflow.evaluation.site_rows import check_width, read_site
from saeflow.fingerprint import fingerprint
from saeflow.progress import say
from saeflow.subjects.load import Subject, load_subject

MAP, SPREAD = "map.parquet", "spread.parquet"
ACTIVATION, DECODER = "activation", "decoder"

Vectors = NDArray[np.float32]


def map_series(
    settings: MapSettings,
    series: Mapping[str, Path],
    *,
    subject: Path,
    tokens: Path,
    activations: Mapping[str, Path],
    exclusion: Path,
    split: str,
    point: Point,
    seed: int,
    out: Path,
    bases: Mapping[str, Path] | None = None,
    device: str = "cpu",
) -> None:
    """Lay out the decoders of one SAE a series (folders, all of `seed`) among activations.

    `tokens` is of the point's `corpus`; `activations` are the caches that the SAEs were trained on,
    by series; `exclusion` is the cache whose rule says which rows count; `bases` are the frozen
    SAEs of residual ones by series, which are no part of the map. Writes `map.parquet` (series,
    kind, id, text, x, y; activations have series "" and their token as text), `spread.parquet`
    (tidy, `variant` naming the series) and the manifest. Raises ImportError without umap-learn,
    ValueError for fewer than two series or too few vectors, and ArtifactError for inputs that are
    damaged or do not belong together.
    """
    _require_umap()
    clock, out = Clock(), begin(out)
    if len(series) < 2:
        raise ValueError(f"{', '.join(series) or 'no series'}: a map compares two series or more")
    members = {
        name: Member(point.l0_target, seed, folder, (bases or {}).get(name))
        for name, folder in series.items()
    }
    for name, member in members.items():
        check_members([member], point._replace(variant=name), activations[name])
    model = load_subject(subject, device)
    decoders = {name: _decoder(member) for name, member in members.items()}
    x_nd, types_n = _activations(settings, model, tokens, split, exclusion, point.site)
    for decoder_fd in decoders.values():
        check_width(model, point.site, x_nd.shape[1], decoder_fd.shape[1])
    drawn = np.random.default_rng([settings.seed, 1])
    latents = _sample(point.d_sae, settings.latents, drawn)
    vectors = [x_nd, *(decoder_fd[latents] for decoder_fd in decoders.values())]
    xy = lay_out(settings, np.concatenate(vectors))
    texts = model.tokenizer.batch_decode(types_n[:, None].tolist())
    with atomic_path(out / MAP) as temporary:
        pq.write_table(_table(texts, list(series), latents, xy), temporary)
    write_rows(out / SPREAD, [_spread(d, point, name, split, seed) for name, d in decoders.items()])
    write_manifest(
        out,
        kind="metrics",
        settings={"map": settings.model_dump(), "split": split, "point": point._asdict()},
        files=[MAP, SPREAD],
        inputs={"subject": subject, "tokens": tokens, "exclusion": exclusion, **series},
        stats={"bases": {name: str(m.base) for name, m in members.items() if m.base is not None}},
        seed=settings.seed,
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def _decoder(member: Member) -> Vectors:
    """Return the decoder vectors (d_sae, d_in) of an SAE, of a residual one its own."""
    (sae,) = load_members([member], "cpu").values()
    return sae.W_dec.detach().numpy()


def _spread(w_dec_fd: Vectors, point: Point, series: str, split: str, seed: int) -> Row:
    """Return one minus the mean cosine over all pairs of decoder vectors."""
    cosines = pair_cosines(torch.from_numpy(w_dec_fd), 2, len(w_dec_fd), seed)
    return make_row(
        point._replace(variant=series),
        split=split,
        seed=seed,
        metric="decoder_spread",
        value=1 - cosines.mean,
        n=cosines.pairs,
    )


def _require_umap() -> None:
    """Refuse before any work, and before a manifest goes, where the layout cannot be made."""
    try:
        import umap  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "a map of activations and decoder vectors needs umap-learn: install it with "
            "pip install umap-learn"
        ) from error


def _activations(
    settings: MapSettings, model: Subject, tokens: Path, split: str, exclusion: Path, site: str
) -> tuple[Vectors, NDArray[np.int64]]:
    """Return a sample of rows (n, d_in), centred if asked for, and their token types (n,)."""
    rule = read_exclusion(exclusion, model.special_ids)
    context = torch.autocast(model.device.type, enabled=False)
    found = []
    for batch in held_out_batches(tokens, split, settings.tokens, settings.batch_tokens):
        rows = read_site(model, site, rule, batch, context)
        found.append((rows.x_nd.cpu(), rows.types_n.cpu()))
    x_nd, types_n = (torch.cat(part).numpy() for part in zip(*found, strict=True))
    if settings.centre and len(x_nd):
        x_nd = x_nd - x_nd.mean(0)
    chosen = _sample(len(x_nd), settings.activations, np.random.default_rng([settings.seed, 0]))
    return x_nd[chosen], types_n[chosen]


def _sample(n: int, most: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return `most` of 0..n-1 without replacement, rising, or all of them if there are no more."""
    return np.sort(generator.choice(n, min(n, most), replace=False))


def lay_out(settings: MapSettings, vectors_nd: Vectors) -> NDArray[np.float64]:
    """Return the places (n, 2) of vectors (n, d) by UMAP, the same for the same seed.

    Raises ValueError where there are not more vectors than neighbours.
    """
    if len(vectors_nd) <= settings.neighbours:
        raise ValueError(
            f"{len(vectors_nd)} vectors cannot have {settings.neighbours} neighbours each: raise "
            "map.activations or map.tokens, or lower map.neighbours"
        )
    from sklearn.neighbors import NearestNeighbors
    from umap import UMAP

    say(f"UMAP of {len(vectors_nd):,} vectors")
    # Exact and in one matrix product; UMAP's own search costs more than all the rest at this size.
    search = NearestNeighbors(
        n_neighbors=settings.neighbours, metric=settings.metric, algorithm="brute"
    )
    distances, indices = search.fit(vectors_nd).kneighbors(vectors_nd)
    reducer = UMAP(
        n_neighbors=settings.neighbours,
        min_dist=settings.min_distance,
        metric=settings.metric,
        random_state=settings.seed,
        precomputed_knn=(indices, distances, None),
        force_approximation_algorithm=True,  # or few vectors are searched again
        n_jobs=1,  # more threads would lay the points out in another order each time
    )
    threads = torch.get_num_threads()  # numba's first parallel region takes all cores for torch too
    try:
        with warnings.catch_warnings():  # that new points cannot be added, and of starts at random
            warnings.simplefilter("ignore")
            return np.asarray(reducer.fit_transform(vectors_nd), dtype=np.float64)
    finally:
        torch.set_num_threads(threads)


def _table(
    texts: list[str], names: list[str], latents: NDArray[np.int64], xy: NDArray[np.float64]
) -> pa.Table:
    n, each = len(texts), len(latents)
    series = [""] * n + [name for name in names for _ in range(each)]
    return pa.table(
        {
            "series": series,
            "kind": [ACTIVATION] * n + [DECODER] * (each * len(names)),
            "id": np.concatenate([np.arange(n), *[latents] * len(names)]),
            "text": texts + [""] * (each * len(names)),
            "x": xy[:, 0],
            "y": xy[:, 1],
        }
    )

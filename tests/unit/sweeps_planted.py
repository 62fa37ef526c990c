"""Planted measures of a sweep and of the debiasing experiment, for figures and tables of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saeflow.evaluation.curve_rows import write_curves
from saeflow.evaluation.rows import Point, Row, make_row, write_rows

SERIES = {
    "gsae": "GSAE",
    "all": "no selection",
    "bm25": "BM25",
    "dense": "Dense",
    "bm25_tracin": "BM25 TracIn",
    "dense_tracin": "Dense TracIn",
    "dense_t500": "Dense, t = 500",
}
L0S, SEEDS, D_SAE = (8, 24, 72), (0, 1, 2), 1024
SUBJECT, SITE, TEXT = "desk", "gpt_neox.layers.3", "physics"
METHODS = ("original", "cbp", "gsae_shift", "ssae_shift", "oracle")
_GAIN = dict(zip(SERIES, (0.0, 0.0, 0.02, 0.05, 0.09, 0.1, 0.04), strict=True))
_TAIL = dict(zip(SERIES, (0.1, 0.1, 0.14, 0.22, 0.22, 0.25, 0.35), strict=True))
Folders = dict[str, dict[str, Path]]


def context(**changes: Any) -> dict[str, Any]:
    return {
        "scale": "desk",
        "subject": SUBJECT,
        "site": SITE,
        "corpus": TEXT,
        "split": "test",
        "trained_on": {name: "docs" if name == "gsae" else f"physics_{name}" for name in SERIES},
        "training_tokens": {name: 600_000 if name == "gsae" else 60_000 for name in SERIES},
        "d_sae": D_SAE,
        "l0s": L0S,
        "reference_l0": 24,
        "seeds": SEEDS,
        "labels": SERIES,
        **changes,
    }


def debias_context(**changes: Any) -> dict[str, Any]:
    return {
        "scale": "desk",
        "subject": SUBJECT,
        "site": "gpt_neox.layers.4",
        "sites": 16,
        "corpus": "bias_in_bios",
        "d_sae": 512,
        "seeds": SEEDS,
        "judge": "gender against profession, AUROC",
        **changes,
    }


def random_of(*key: int | str) -> np.random.Generator:
    return np.random.default_rng([*"".join(map(str, key)).encode()])


def row(series: str, l0: int, seed: int, metric: str, value: float, corpus: str = TEXT) -> Row:
    point = Point("ssae", SUBJECT, SITE, corpus, f"physics_{series}", series, D_SAE, l0)
    return make_row(point, split="test", seed=seed, metric=metric, value=value, n=8000)


def core_rows(series: str, corpus: str = TEXT) -> list[Row]:
    rows = []
    for l0 in L0S:
        for seed in SEEDS:
            noise = random_of(series, l0, seed).normal(0, 1, 2)
            spliced = 9.0 * (1 + 6 / l0) * np.exp(-_GAIN[series] + 0.01 * noise[0])
            measured = {
                "l0": l0 * (1 + 0.06 * noise[1]),
                "perplexity_sae": spliced,
                "perplexity_clean": 8.4,
                "perplexity_ratio": np.exp(-_GAIN[series] + 0.01 * noise[0]),
            }
            rows += [row(series, l0, seed, m, float(v), corpus) for m, v in measured.items()]
    return rows


def plant_core(root: Path) -> Folders:
    """Plant `core` and `pareto`, a folder a series; a seed of BM25 lacks a point of the latter."""
    folders = {name: root / "core" / name for name in SERIES}
    for name, folder in folders.items():
        rows = [one for one in core_rows(name) if one.metric != "perplexity_ratio"]
        write_rows(folder / "core.parquet", rows)
    related = {name: root / "pareto" / name for name in SERIES}
    for name, folder in related.items():
        rows = [
            one
            for corpus in (TEXT, "exercises")
            for one in core_rows(name, corpus)
            if one[6:10] != ("bm25", D_SAE, 72, 1) or one.metric in ("l0", "perplexity_clean")
        ]
        write_rows(folder / "pareto.parquet", rows)
    return {"core": folders, "pareto": related}


def _curves(series: str) -> dict[str, tuple[np.ndarray, Callable[[np.random.Generator], Any]]]:
    """x and a draw of y a metric."""
    frequency, share = np.geomspace(2e-6, 2e-2, 12), np.geomspace(1e-3, 1, 40)
    rank, cosine = np.geomspace(1, D_SAE, 30), np.linspace(-1, 1, 101)
    tail, width = _TAIL[series], 0.09 - 0.1 * _TAIL[series]
    covered = 1 / (1 + (3e-5 / frequency) ** 0.8 * (0.35 / tail))
    density = np.exp(-((cosine - width) ** 2) / (2 * width**2)) / (width * np.sqrt(2 * np.pi))
    counts = 6000 * rank ** (-0.4 - 0.3 * (0.4 - tail)) - 500 + 400 * tail
    return {
        "coverage_mass": (frequency, lambda g: covered + 0.01 * g.normal(size=12)),
        "cumulative_coverage_mass": (share, lambda g: share ** (1.6 - tail)),
        "error_mean_by_rank": (rank, lambda g: 2 + 0.3 * np.log(rank) + 0.1 * g.normal(size=30)),
        "error_max_by_rank": (
            rank,
            lambda g: (5 + (2 - 4 * tail) * np.log(rank)) * np.exp(0.1 * g.normal(size=30)),
        ),
        "latent_count_by_rank": (rank, lambda g: np.round(np.clip(counts, 0, None))),
        "decoder_cosine_density": (cosine, lambda g: density),
    }


def plant_tokens(root: Path, series: Iterable[str] = SERIES) -> Folders:
    """Plant the token measures of each series: curves and types."""
    folders = {name: root / "tokens" / name for name in series}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        curves, types = [], []
        for seed in SEEDS:
            g = random_of(name, seed)
            for metric, (at, draw) in _curves(name).items():
                values = zip(at, draw(g), strict=True)
                curves += [(row(name, 24, seed, metric, float(y)), float(x)) for x, y in values]
            count = 1500
            entropy = np.clip(g.normal(2.6 - 2 * _TAIL[name], 0.5, count), 0, None)
            entropy[:40] = np.nan
            peak = g.lognormal(1.0 + _TAIL[name], 0.5, count)
            types.append(pd.DataFrame({"seed": seed, "entropy": entropy, "peak_activation": peak}))
        write_curves(folder / "curves.parquet", curves)
        pd.concat(types).to_parquet(folder / "types.parquet", index=False)
    return {"tokens": folders}


def plant_ratios(root: Path) -> Folders:
    """Plant log ratios of activation counts, a folder a series."""
    folders = {name: root / "ratios" / name for name in SERIES}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        tables = [
            pd.DataFrame(
                {
                    "series": name,
                    "seed": seed,
                    "latent": np.arange(D_SAE),
                    "log_ratio": random_of(name, seed).normal(0.3 - 2 * _TAIL[name], 0.8, D_SAE),
                }
            )
            for seed in SEEDS
        ]
        pd.concat(tables).to_parquet(folder / "ratios.parquet", index=False)
    return {"ratios": folders}


def plant_scores(root: Path, series: Iterable[str] = SERIES) -> Folders:
    """Plant a judge's scores of 60 latents a seed, one in 20 of which failed."""
    folders = {name: root / "explained" / name for name in series}
    for name, folder in folders.items():
        folder.mkdir(parents=True)
        tables = []
        for seed in SEEDS:
            g = random_of(name, seed, "scores")
            examples = ["the <<momentum>> of a\nbody", "its <<spin>> | state", "a <<field>>"]
            table = pd.DataFrame(
                {
                    "seed": seed,
                    "latent": np.sort(g.choice(D_SAE, 60, replace=False)),
                    "judge": "lexical",
                    "judge_definition": "lexical, which explains by tokens",
                    "justification": "17 token types",
                    "explanation": "reads one of: momentum, spin",
                    "examples": json.dumps(examples),
                    "diversity": np.clip(g.normal(60, 8 + 40 * _TAIL[name], 60), 0, 100),
                    "f1": np.clip(g.normal(0.55 + _TAIL[name], 0.15, 60), 0, 1),
                    "status": np.where(np.arange(60) % 20 == 0, "timeout", "ok"),
                }
            )
            table.loc[table["status"] != "ok", ["diversity", "f1"]] = np.nan
            tables.append(table)
        pd.concat(tables).to_parquet(folder / "scores.parquet", index=False)
    return {"explained": folders}


def plant_map(root: Path, series: Iterable[str] = ("gsae", "dense_t500")) -> Folders:
    """Plant a map: activations in clusters, decoder directions on and between them."""
    folder, g = root / "map", random_of("map")
    folder.mkdir(parents=True)
    centres = g.normal(0, 4, (30, 2))
    tables = [_spots("", "activation", centres[g.integers(0, 30, 3000)], 0.35, g)]
    for name in series:
        spots = centres[g.integers(0, 30, D_SAE)]
        tables.append(_spots(name, "decoder", spots, 0.2 + 4 * _TAIL[name], g))
    pd.concat(tables).to_parquet(folder / "map.parquet", index=False)
    return {"map": {"": folder}}


def _spots(
    series: str, kind: str, centres: np.ndarray, width: float, g: np.random.Generator
) -> pd.DataFrame:
    at = centres + g.normal(0, width, centres.shape)
    table = pd.DataFrame({"series": series, "kind": kind, "id": np.arange(len(at)), "text": ""})
    return table.assign(x=at[:, 0], y=at[:, 1])


def plant_concepts(root: Path, series: Iterable[str] = SERIES) -> Folders:
    """Plant recall of planted concepts at five frequencies."""
    folders = {name: root / "concepts" / name for name in series}
    for name, folder in folders.items():
        rows = []
        for seed in SEEDS:
            g = random_of(name, seed, "concepts")
            for frequency in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5):
                share = 1 / (1 + (1e-5 / _TAIL[name] ** 2 / frequency)) + 0.03 * g.normal()
                metric = f"concept_recall@{frequency:g}"
                rows.append(row(name, 24, seed, metric, float(np.clip(share, 0, 1))))
            rows.append(row(name, 24, seed, "concept_recall", 0.5))
        write_rows(folder / "concept_recall.parquet", rows)
    return {"concepts": folders}


def plant_debias(root: Path) -> Folders:
    """Plant accuracies of a few methods, a folder a seed."""
    folders = {}
    worst: Mapping[str, float] = dict(zip(METHODS, (0.25, 0.66, 0.74, 0.86, 0.92), strict=True))
    for seed in SEEDS:
        rows, g = [], random_of("debias", seed)
        for method in METHODS:
            point = Point("ssae", SUBJECT, "gpt_neox.layers.4", "bias_in_bios", "", method, 512, 0)
            values = {
                "worst_group_accuracy": worst[method] + 0.01 * g.normal(),
                "profession_accuracy": 0.5 + worst[method] / 2 + 0.01 * g.normal(),
                "gender_accuracy": 0.95 - worst[method] / 2 + 0.01 * g.normal(),
            }
            rows += [
                make_row(point, split="test", seed=seed, metric=m, value=float(v), n=400)
                for m, v in values.items()
            ]
        folders[str(seed)] = root / "debias" / f"seed{seed}"
        write_rows(folders[str(seed)] / "debias.parquet", rows)
        plant_circuits(folders[str(seed)], g)
    return {"debias": folders}


def plant_circuits(folder: Path, g: np.random.Generator) -> None:
    """Plant a small circuit of the one kind of SAE and a larger one of the other."""
    nodes, edges = [], []
    sites = [("embed", 0), *((kind, n) for n in range(3) for kind in ("attn", "mlp", "resid"))]
    for sae, size in (("gsae", 2), ("ssae", 5)):
        places = [(*site, order, i) for order, site in enumerate(sites) for i in range(size)]
        for kind, layer, order, i in places:
            nodes.append(
                {
                    "sae": sae, "node": f"{kind}_{layer}/{i}", "site": f"{kind}_{layer}",
                    "order": order, "layer": layer, "kind": kind, "part": "latent", "latent": i,
                    "effect": g.exponential(0.4), "label": " she her Mrs",
                    "judged": ("gender", "profession")[i % 2],
                }
            )  # fmt: skip
        last = {"node": "output", "site": "output", "order": 99, "layer": 3, "kind": "output"}
        nodes.append({"sae": sae, **last, "part": "output", "label": "", "judged": ""})
        names = [one["node"] for one in nodes if one["sae"] == sae]
        edges += [
            {"sae": sae, "source": low, "target": high, "effect": g.exponential(0.1)}
            for low, high in zip(names, names[size:], strict=False)
        ]
    table = pd.DataFrame(nodes).astype({"latent": "Int64"})
    table.to_parquet(folder / "nodes.parquet", index=False)
    pd.DataFrame(edges).to_parquet(folder / "edges.parquet", index=False)


def plant_all(root: Path) -> Folders:
    """Plant everything."""
    return {
        **plant_core(root),
        **plant_tokens(root),
        **plant_ratios(root),
        **plant_scores(root),
        **plant_map(root),
        **plant_concepts(root),
        **plant_debias(root),
    }

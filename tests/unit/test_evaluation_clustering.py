"""The global clustering coefficient of graphs of decoder vectors."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import networkx as nx
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from decoders_planted import KEY, POINT, of_decoder, random_vectors, written

from saeflow.artifacts import read_manifest
from saeflow.evaluation import clustering_graph
from saeflow.evaluation.clustering import evaluate_clustering, measure_clustering
from saeflow.evaluation.clustering_graph import (
    count_triangles,
    edges_above,
    graphs_by_cosine,
    graphs_by_density,
)
from saeflow.evaluation.clustering_settings import ClusteringSettings
from saeflow.evaluation.rows import read_rows

CACHE = "cache"


def triangles(latents: int, edges: list[tuple[int, int]]) -> int:
    first, second = np.array(edges).T
    return count_triangles(latents, first, second)


def in_groups(*sizes: int, d: int = 8) -> torch.Tensor:
    """Vectors around the axes, so many around each, no two the same."""
    drawn = random_vectors(sum(sizes), d)
    return torch.eye(d)[torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))] + drawn / 8


def test_triangles_of_known_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert triangles(6, list(combinations(range(6), 2))) == 20
    assert triangles(6, [(0, i) for i in range(1, 6)]) == 0
    assert triangles(6, [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]) == 2
    monkeypatch.setattr(clustering_graph, "_BLOCK_ENTRIES", 12)
    assert triangles(6, list(combinations(range(6), 2))) == 20


def test_known_coefficients_of_vectors() -> None:
    """Two groups of three: the six closest of 15 pairs are two triangles; a star has none."""
    [two, all_pairs] = graphs_by_density(of_decoder(in_groups(3, 3)).W_dec, [6 / 15, 0.999])
    assert (two.edges, two.triangles, two.triples, two.coefficient) == (6, 2, 6, 1.0)
    assert (all_pairs.edges, all_pairs.coefficient) == (15, 1.0)
    axes = torch.eye(8)
    centre = axes[:5].sum(0) / 5**0.5
    [star] = graphs_by_cosine(torch.stack([centre, *axes[:5]]), [0.4])
    assert (star.edges, star.triangles, star.triples, star.coefficient) == (5, 0, 10, 0.0)


@pytest.mark.parametrize("entries", [7, 2**23])
def test_it_is_networkxs_transitivity(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering_graph, "CHUNK_ENTRIES", entries)
    unit_fd = random_vectors(60, 6)
    cosines = (unit_fd @ unit_fd.T).triu(1)
    densities = [0.01, 0.1, 0.3]
    for density, graph in zip(densities, graphs_by_density(unit_fd, densities), strict=True):
        joined = (cosines > graph.cosine).nonzero().tolist()
        assert graph.edges == len(joined) == round(density * 60 * 59 / 2)
        known = nx.Graph(joined)
        assert graph.triples == sum(d * (d - 1) // 2 for _, d in known.degree)
        assert graph.coefficient == pytest.approx(nx.transitivity(known))
        assert graphs_by_cosine(unit_fd, [graph.cosine]) == [graph]


def test_pairs_as_close_as_the_first_left_out_are_left_out() -> None:
    [graph] = graphs_by_density(torch.eye(4)[[0, 0, 1, 1, 2]], [0.1])
    assert graph.edges == 0 and graph.cosine == 1.0


def test_more_edges_than_can_be_held_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering_graph, "_MOST_EDGES", 20)
    with pytest.raises(ValueError, match=r"more than 20 pairs .* clustering\.levels"):
        edges_above(random_vectors(60, 6), 0.0)


def test_levels_without_a_triple_are_skipped_and_counted() -> None:
    settings = ClusteringSettings(levels=(1 / 15, 6 / 15))
    saes = {KEY: of_decoder(in_groups(3, 3))}
    rows, details = measure_clustering(settings, saes, point=POINT, split="test")
    found = {row.metric: (row.value, row.n) for row in rows}
    assert found["clustering_levels_skipped"] == (1, 2)
    assert found["clustering_coefficient@0.4"] == (1.0, 6)
    assert found["edge_density@0.0666667"] == (pytest.approx(1 / 15), 15)
    assert "clustering_coefficient@0.0666667" not in found
    assert details["skipped"].to_pylist() == ["no latent has two edges", None]
    for by, level, verb in (("density", 0.001, "raise"), ("cosine", 0.9999, "lower")):
        settings = ClusteringSettings(levels=(level,), by=by)
        with pytest.raises(ValueError, match=rf"L0 4, seed 0: .*{verb} clustering\.levels"):
            measure_clustering(settings, saes, point=POINT, split="test")


def test_the_job_writes_a_row_for_each_sae(tmp_path: Path) -> None:
    saes = [written(tmp_path, random_vectors(24, 12, seed), "sae", seed=seed) for seed in (0, 1)]
    evaluate_clustering(
        ClusteringSettings(levels=(0.1, 0.2)), saes, activations=tmp_path / CACHE,
        split="test", point=POINT._replace(l0_target=0), out=tmp_path / "out",
    )  # fmt: skip
    rows = read_rows([tmp_path / "out" / "clustering.parquet"])
    assert set(rows["l0_target"]) == {4} and set(rows["seed"]) == {0, 1}
    assert len(rows) == 2 * (1 + 2 * 3)
    details = pq.read_table(tmp_path / "out" / "clustering_details.parquet").to_pandas()
    assert details["edges"].tolist() == [28, 55] * 2
    assert read_manifest(tmp_path / "out", kind="metrics", deep=True)["files"].keys() == {
        "clustering.parquet", "clustering_details.parquet"
    }  # fmt: skip


def test_levels_that_cannot_be_are_refused() -> None:
    for levels in ((0.1, 0.1), (0.0, 0.1), (1.0,), ()):
        with pytest.raises(ValueError, match="levels"):
            ClusteringSettings(levels=levels)
    assert ClusteringSettings(levels=(-0.1,), by="cosine").levels == (-0.1,)

"""Clustering of similar decoder vectors, against edge density (OrtSAE Fig. 4c).

Latents are nodes, and an edge joins two whose decoder vectors have a cosine above a threshold.
Density is 2 edges / (n (n - 1)); the global clustering coefficient is 3 triangles / connected
triples. Where it is high, latents share directions in groups. A latent that never fires counts like
any other; its vector is left about where it was drawn, far from all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.evaluation.clustering_graph import Graph, graphs_by_cosine, graphs_by_density
from saeflow.evaluation.clustering_settings import ClusteringSettings
from saeflow.evaluation.decoder import unit_rows
from saeflow.evaluation.origin import Key, Member, check_members, inputs_of, load_members
from saeflow.evaluation.rows import Point, Row, make_row, write_rows
from saeflow.fingerprint import fingerprint
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE

ROWS, DETAILS = "clustering.parquet", "clustering_details.parquet"
DETAIL_SCHEMA = pa.schema(
    [
        ("l0_target", pa.int64()),
        ("seed", pa.int64()),
        ("level", pa.float64()),
        ("cosine", pa.float64()),
        ("edges", pa.int64()),
        ("density", pa.float64()),
        ("triangles", pa.int64()),
        ("triples", pa.int64()),
        ("coefficient", pa.float64()),
        ("skipped", pa.string()),
    ]
)


def evaluate_clustering(
    settings: ClusteringSettings,
    saes: Sequence[Member],
    *,
    activations: Path,
    split: str,
    point: Point,
    out: Path,
    device: str = "cpu",
) -> None:
    """Measure the SAEs of one variant, all L0 targets and seeds.

    `activations` is the cache that they were trained on; `split` is only written into the rows, so
    that they stand beside those of text. Writes `clustering.parquet` (tidy rows),
    `clustering_details.parquet` (a row an SAE and graph) and the manifest into `out`. The point's
    `l0_target` is ignored: each row has its SAE's. Raises what `check_members` and
    `measure_clustering` raise.
    """
    clock, out = Clock(), begin(out)
    check_members(saes, point, activations)
    loaded = load_members(saes, device)
    rows, details = measure_clustering(settings, loaded, point=point, split=split)
    write_rows(out / ROWS, rows)
    with atomic_path(out / DETAILS) as temporary:
        pq.write_table(details, temporary)
    write_manifest(
        out,
        kind="metrics",
        settings={"clustering": settings.model_dump(), "point": point._asdict()},
        files=[ROWS, DETAILS],
        inputs={
            "activations": activations,
            **inputs_of(saes),
        },
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def measure_clustering(
    settings: ClusteringSettings,
    saes: Mapping[Key, SAE | Boosted],
    *,
    point: Point,
    split: str,
) -> tuple[list[Row], pa.Table]:
    """Return rows and details of all SAEs.

    `clustering_coefficient@<level>` (n connected triples), and of the same graph
    `edge_density@<level>` and `edge_cosine@<level>`, the cosine above which pairs are joined (n
    pairs). A level at which no latent has two edges has no coefficient: `clustering_levels_skipped`
    counts them (n levels), and the details say so. Raises ValueError where that is so at all
    levels of an SAE, and for graphs with more edges than can be held.
    """
    rows: list[Row] = []
    details: list[dict[str, Any]] = []
    for key, sae in saes.items():
        unit_fd = unit_rows(sae.W_dec)
        pairs = len(unit_fd) * (len(unit_fd) - 1) // 2
        graphs = _graphs(settings, key, unit_fd)
        row = partial(make_row, point._replace(l0_target=key.l0_target), split=split, seed=key.seed)
        skipped = sum(graph.coefficient is None for graph in graphs)
        rows.append(row(metric="clustering_levels_skipped", value=skipped, n=len(graphs)))
        for level, graph in zip(settings.levels, graphs, strict=True):
            density, coefficient = graph.edges / pairs, graph.coefficient
            rows.append(row(metric=f"edge_density@{level:g}", value=density, n=pairs))
            rows.append(row(metric=f"edge_cosine@{level:g}", value=graph.cosine, n=pairs))
            if coefficient is not None:
                metric = f"clustering_coefficient@{level:g}"
                rows.append(row(metric=metric, value=coefficient, n=graph.triples))
            details.append(
                {
                    **key._asdict(),
                    "level": level,
                    **graph._asdict(),
                    "density": density,
                    "coefficient": coefficient,
                    "skipped": "no latent has two edges" if coefficient is None else None,
                }
            )
    return rows, pa.Table.from_pylist(details, schema=DETAIL_SCHEMA)


def _graphs(settings: ClusteringSettings, key: Key, unit_fd: Tensor) -> list[Graph]:
    """Return the graph of each level; raises ValueError where none has two edges that meet."""
    by_density = settings.by == "density"
    graphs = (graphs_by_density if by_density else graphs_by_cosine)(unit_fd, settings.levels)
    if all(graph.coefficient is None for graph in graphs):
        raise ValueError(
            f"{key}: at no level has any of {len(unit_fd)} latents two edges: "
            f"{'raise' if by_density else 'lower'} clustering.levels"
        )
    return graphs

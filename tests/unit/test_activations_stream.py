"""Streams give every row once an epoch, in an order that only the seed sets, from any position."""

from __future__ import annotations

import multiprocessing
import resource
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from activations_planted import make_cache
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sae_planted import SITE, planted_cache

from saeflow.activations.stream import ActivationStream, estimate_scale, sample
from saeflow.artifacts import ArtifactError

SHARDS = [700, 650, 128]
ROWS = sum(SHARDS)
SMALL = {"block_bytes": 400 * 16}
"""Blocks of at most 400 rows of site a, so that an epoch has several."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saeflow.activations.shards.GROUP_BYTES", 100 * 32)  # 100 rows of site b
        return make_cache(tmp_path_factory.mktemp("cache"), SHARDS)


def documents(stream: ActivationStream, batches: int) -> np.ndarray:
    return torch.cat([b.document for b in islice(stream.batches_with_ids(), batches)]).numpy()


def test_an_epoch_is_a_permutation_of_all_rows(cache):
    with ActivationStream(cache, "a", batch_size=1, seed=1, **SMALL) as stream:
        assert (stream.rows, stream.d_in, stream.position) == (ROWS, 8, 0)
        first, second = documents(stream, ROWS), documents(stream, ROWS)
        assert stream.position == 2 * ROWS
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert (first != second).mean() > 0.9


def test_rows_stay_with_their_ids_at_every_site(cache):
    for site, width in (("a", 8), ("b", 16)):
        with ActivationStream(cache, site, batch_size=100, seed=1, **SMALL) as stream:
            for acts_bd, document, position, token in islice(stream.batches_with_ids(), 40):
                assert acts_bd.dtype == torch.float32 and acts_bd.shape == (100, width)
                assert (acts_bd == document[:, None]).all()
                assert (position == document).all() and (token == document % 50).all()


def test_batches_are_the_callers_to_keep(cache):
    with ActivationStream(cache, "a", batch_size=64, seed=1, **SMALL) as stream:
        kept = list(islice(stream, 60))
        copies = [b.clone() for b in kept]
        next(stream)
        assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_the_seed_alone_sets_the_order(cache):
    def run(seed: int) -> torch.Tensor:
        with ActivationStream(cache, "a", batch_size=96, seed=seed, **SMALL) as stream:
            return torch.stack(list(islice(stream, 50)))

    assert torch.equal(run(5), run(5))
    assert not torch.equal(run(5), run(6))


def test_rows_of_all_shards_meet_in_a_block(cache):
    with ActivationStream(cache, "a", batch_size=300, seed=1, **SMALL) as stream:
        seen = documents(stream, 4)
    shard = np.searchsorted(np.cumsum(SHARDS), seen, side="right").reshape(4, 300)
    assert (np.diff(np.sort(seen[:300])) > 1).any()
    assert all(len(set(row)) > 1 for row in shard)
    assert (np.abs(np.diff(seen)) > 1).mean() > 0.9


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(position=st.integers(0, 200), batch_size=st.integers(1, 500), with_ids=st.booleans())
def test_opening_at_a_position_goes_on_exactly_there(cache, position, batch_size, with_ids):
    with ActivationStream(cache, "a", batch_size=batch_size, seed=2, **SMALL) as stream:
        expected = next(islice(stream, position, None))
    arguments = {"batch_size": batch_size, "seed": 2, "position": position, **SMALL}
    with ActivationStream(cache, "a", **arguments) as stream:
        got = next(stream.batches_with_ids()).acts_bd if with_ids else next(stream)
        assert stream.position == position + 1
    assert torch.equal(got, expected)


def test_one_stream_may_switch_to_ids_and_back(cache):
    with ActivationStream(cache, "a", batch_size=70, seed=2, **SMALL) as plain:
        expected = list(islice(plain, 30))
    with ActivationStream(cache, "a", batch_size=70, seed=2, **SMALL) as stream:
        got = list(islice(stream, 9))
        got += [b.acts_bd for b in islice(stream.batches_with_ids(), 11)]
        got += list(islice(stream, 10))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_documents_can_stand_together_in_a_random_order(tmp_path):
    rows_nd = torch.arange(800).float()[:, None].expand(800, 3)
    folder = planted_cache(tmp_path, rows_nd)  # four rows a document
    options = {"batch_size": 50, "seed": 1, "by_document": True}
    with ActivationStream(folder, SITE, **options) as stream:
        batches = list(islice(stream.batches_with_ids(), 16))
    document = torch.cat([batch.document for batch in batches])
    acts = torch.cat([batch.acts_bd[:, 0] for batch in batches])
    assert torch.equal(acts.long() // 4, document) and len(acts.unique()) == 800
    assert torch.equal(document[::4].repeat_interleave(4), document)
    assert not torch.equal(document.sort().values, document)
    within = acts.long().view(200, 4) % 4
    assert not torch.equal(within.sort(1).values, within)
    with ActivationStream(folder, SITE, position=5, **options) as stream:
        assert torch.equal(next(stream), batches[5].acts_bd)


def test_float32_caches_are_read_too(tmp_path):
    folder = make_cache(tmp_path, [50], dtype="float32")
    with ActivationStream(folder, "b", batch_size=50, seed=0) as stream:
        assert sorted(next(stream)[:, 0].tolist()) == list(range(50))


def test_leaving_the_stream_ends_its_thread(cache):
    before = threading.active_count()
    with ActivationStream(cache, "a", batch_size=10, seed=0, **SMALL) as stream:
        next(stream)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="closed"):
        next(stream)


def test_a_batch_may_exceed_the_cache(cache):
    with ActivationStream(cache, "a", batch_size=ROWS + 10, seed=0, **SMALL) as stream:
        counts = np.bincount(documents(stream, 1))
    assert counts.min() == 1 and counts.sum() == ROWS + 10


def test_scale_is_the_mean_square_and_always_the_same(cache):
    every = np.arange(ROWS, dtype=np.float64)
    assert estimate_scale(cache, "a") == pytest.approx(float((every**2).mean()), rel=1e-6)
    assert estimate_scale(cache, "a") == estimate_scale(cache, "a")


def test_sample_draws_without_replacement(cache):
    rows = sample(cache, "b", 300, seed=4)
    assert rows.shape == (300, 16) and len(set(rows[:, 0].tolist())) == 300
    assert torch.equal(rows, sample(cache, "b", 300, seed=4))
    assert not torch.equal(rows, sample(cache, "b", 300, seed=5))
    assert len(sample(cache, "b", 10 * ROWS, seed=4)) == ROWS


def test_an_unknown_site_lists_those_there_are(cache):
    with pytest.raises(ArtifactError, match=r"no site 'c'.*it has: a, b"):
        ActivationStream(cache, "c", batch_size=1, seed=0)


def test_a_truncated_shard_is_named_with_the_rebuild_command(tmp_path):
    shard = make_cache(tmp_path, [300, 300]) / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"shard-00001.parquet has .* bytes.*snakemake"):
        ActivationStream(tmp_path, "a", batch_size=1, seed=0)


def test_a_corrupt_footer_is_named_with_the_rebuild_command(tmp_path):
    shard = make_cache(tmp_path, [300, 300]) / "shard-00001.parquet"
    data = shard.read_bytes()
    shard.write_bytes(data[:-200] + b"\xff" * 200)
    with pytest.raises(ArtifactError, match=r"shard-00001.parquet cannot be read.*snakemake"):
        ActivationStream(tmp_path, "a", batch_size=1, seed=0)


def test_a_shard_swapped_for_another_is_refused(tmp_path):
    make_cache(tmp_path / "other", [300], width=9)
    make_cache(tmp_path / "cache", [300])
    other = (tmp_path / "other/shard-00000.parquet").read_bytes()
    shard = tmp_path / "cache/shard-00000.parquet"
    manifest = tmp_path / "cache/manifest.json"
    text = manifest.read_text().replace(
        f'"bytes": {shard.stat().st_size}', f'"bytes": {len(other)}'
    )
    shard.write_bytes(other)
    manifest.write_text(text)
    with pytest.raises(ArtifactError, match="rows or columns are not those of the manifest"):
        ActivationStream(tmp_path / "cache", "a", batch_size=1, seed=0)


def test_damage_found_while_reading_ends_the_iteration(cache, tmp_path):
    folder = make_cache(tmp_path, [300, 300])
    with ActivationStream(folder, "a", batch_size=1, seed=0) as stream:
        (folder / "shard-00001.parquet").write_bytes(b"")
        with pytest.raises(ArtifactError, match=r"shard-00001.parquet cannot be read"):
            next(stream)


def read_an_epoch(folder: Path, answer) -> None:
    """Report by how many MiB a whole epoch raises the peak memory of a process of its own."""
    with ActivationStream(folder, "a", batch_size=256, seed=0, block_bytes=4 << 20) as stream:
        next(stream)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(stream.rows // 256):
            next(stream)
        answer.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def test_memory_stays_bounded_however_large_the_cache(tmp_path):
    folder = make_cache(tmp_path, [30_000] * 4, width=400)  # 92 MiB of site a
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["saeflow.activations.stream"])
    answer = context.Queue()
    process = context.Process(target=read_an_epoch, args=(folder, answer))
    process.start()
    assert answer.get(timeout=120) < 30
    process.join()


def test_a_late_position_is_reached_without_reading_what_precedes(tmp_path, monkeypatch):
    from saeflow.activations import stream as room

    folder = make_cache(tmp_path, [30_000] * 4, width=64)
    read, count = room.read_group, []
    monkeypatch.setattr(room, "read_group", lambda *a: (count.append(1), read(*a))[1])
    started = time.process_time()
    arguments = {"batch_size": 1000, "seed": 0, "position": 10**6 - 1, "block_bytes": 1 << 20}
    with ActivationStream(folder, "a", **arguments) as stream:
        next(stream)
    assert time.process_time() - started < 1
    assert len(count) <= 2 * 9

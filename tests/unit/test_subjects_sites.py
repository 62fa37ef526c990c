"""Running to a site, splicing a site, running from a site: equal by every way there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from subjects_tiny import BLOCKS, build, make, write_folder

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.subjects.folder import load_tokenizer
from saeflow.subjects.head import LOGIT_BYTES, logit_blocks, logits
from saeflow.subjects.load import Subject, load_subject
from saeflow.subjects.materialise import make_subject
from saeflow.subjects.settings import FromFolder, FromHub
from saeflow.subjects.sites import (
    SiteError,
    known_sites,
    resolve_sites,
    run_body,
    run_to_sites,
    site_names,
)
from saeflow.subjects.splice import _can_skip, run_from_site, splice

TOKENS = torch.randint(1, 280, (3, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=sorted(BLOCKS))
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return make(request.param, tmp_path_factory.mktemp("subjects"))


@pytest.fixture(scope="module")
def neox(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return make("gpt_neox", tmp_path_factory.mktemp("neox"))


def block(subject: Subject, number: int) -> str:
    return f"{BLOCKS[subject.name]}.{number}"


def test_reloaded_logits_are_identical(subject: Subject) -> None:
    with torch.no_grad():
        assert torch.equal(subject.model(TOKENS).logits, build(subject.name).eval()(TOKENS).logits)


def test_sites_are_known_without_weights(subject: Subject) -> None:
    assert known_sites(subject.config.to_dict()) == site_names(subject.model)


def test_blocks_are_the_hidden_states(subject: Subject) -> None:
    sites = resolve_sites(subject.model, [f"{BLOCKS[subject.name]}.*"])
    assert sites == [block(subject, i) for i in range(3)]
    read = run_to_sites(subject, TOKENS, sites)
    hidden = subject.model(TOKENS, output_hidden_states=True).hidden_states
    # The last entry of hidden_states is after the final norm, so only two blocks compare.
    for i in range(2):
        torch.testing.assert_close(read[sites[i]], hidden[i + 1])


def test_one_pass_reads_what_separate_passes_read(subject: Subject) -> None:
    sites = [name for name in site_names(subject.model) if name.count(".") == 3][:6]
    sites += [block(subject, 2), block(subject, 0)]
    together = run_to_sites(subject, TOKENS, sites)
    assert list(together) == sites
    for site in sites:
        assert torch.equal(together[site], run_to_sites(subject, TOKENS, [site])[site])


def test_the_pass_ends_after_the_last_site(subject: Subject) -> None:
    ran = []
    later = subject.model.get_submodule(block(subject, 2))
    handle = later.register_forward_hook(lambda *_: ran.append(1))
    run_to_sites(subject, TOKENS, [block(subject, 1)])
    assert not ran
    run_body(subject, TOKENS)
    assert ran
    handle.remove()


def test_padding_on_the_right_changes_nothing(subject: Subject) -> None:
    site = block(subject, 1)
    padded = TOKENS.clone()
    padded[:, 8:] = 0
    read = run_to_sites(subject, padded, [site])[site][:, :8]
    torch.testing.assert_close(read, run_to_sites(subject, TOKENS[:, :8], [site])[site])


def test_identity_splice_is_clean(subject: Subject) -> None:
    with torch.no_grad():
        clean = run_body(subject, TOKENS)
        for site in (block(subject, 1), f"{block(subject, 1)}.mlp", attention(subject)):
            assert torch.equal(splice(subject, TOKENS, site, lambda acts: acts), clean)
            assert not torch.equal(splice(subject, TOKENS, site, torch.zeros_like), clean)
        assert torch.equal(run_body(subject, TOKENS), clean)


def attention(subject: Subject) -> str:
    names = [n for n in site_names(subject.model) if n.startswith(block(subject, 0) + ".")]
    return next(n for n in names if n.rsplit(".", 1)[1] in ("attn", "attention", "self_attn"))


def test_running_from_a_site_is_splicing_it(subject: Subject) -> None:
    for site in (
        block(subject, 0),
        block(subject, 1),
        block(subject, 2),
        f"{block(subject, 1)}.mlp",
    ):
        acts = torch.randn(3, 12, 16, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            rest = run_from_site(subject, TOKENS, site, acts)
            assert torch.equal(rest, splice(subject, TOKENS, site, lambda _, acts=acts: acts))
    assert subject.skips == {block(subject, i): True for i in range(3)} | {
        f"{block(subject, 1)}.mlp": False
    }


def test_running_from_a_block_runs_no_earlier_block(subject: Subject) -> None:
    ran = []
    inner = subject.model.get_submodule(f"{block(subject, 0)}.mlp")
    handle = inner.register_forward_hook(lambda *_: ran.append(1))
    acts = torch.zeros(3, 12, 16)
    run_from_site(subject, TOKENS, block(subject, 1), acts)
    ran.clear()
    run_from_site(subject, TOKENS, block(subject, 1), acts)
    assert not ran
    handle.remove()


def test_a_block_that_reads_more_than_its_input_is_not_skipped(neox: Subject) -> None:
    # As in models whose later blocks read an earlier block beside the residual stream.
    early: list[torch.Tensor] = []
    first, last = (neox.model.get_submodule(block(neox, i)) for i in (0, 2))
    handles = [
        first.mlp.register_forward_hook(lambda module, args, out: early.append(out)),
        last.register_forward_hook(lambda module, args, out: out + early.pop()),
    ]
    run_body(neox, TOKENS)
    assert not _can_skip(neox, TOKENS[1:2, :4], block(neox, 1))
    for handle in handles:
        handle.remove()
    assert _can_skip(neox, TOKENS[1:2, :4], block(neox, 1))


def test_gradients_reach_the_spliced_activations(subject: Subject) -> None:
    acts = torch.randn(3, 12, 16, requires_grad=True)
    run_from_site(subject, TOKENS, block(subject, 1), acts).sum().backward()
    assert acts.grad is not None and acts.grad.abs().sum() > 0


def test_head_is_the_models_own(subject: Subject) -> None:
    with torch.no_grad():
        whole = subject.model(TOKENS).logits
        torch.testing.assert_close(logits(subject, run_body(subject, TOKENS)), whole)
        assert torch.equal(subject.model(TOKENS).logits, whole)


def test_blocks_of_logits_are_bounded_in_bytes() -> None:
    for rows, vocab_size in ((1000, 256_000), (5, 2**30), (0, 10)):
        blocks = list(logit_blocks(rows, vocab_size))
        assert [row for block in blocks for row in range(rows)[block]] == list(range(rows))
        for block in blocks:
            size = len(range(rows)[block])
            assert size == 1 or 4 * vocab_size * size <= LOGIT_BYTES
    assert len(list(logit_blocks(1000, 256_000))) == 16


def test_unknown_sites_are_named_with_near_matches(neox: Subject) -> None:
    with pytest.raises(SiteError, match=r"'gpt_neox.layer.1'; did you mean .*gpt_neox.layers.1"):
        resolve_sites(neox.model, ["gpt_neox.layer.1"])
    with pytest.raises(SiteError, match=r"layers\.7"):
        run_to_sites(neox, TOKENS, ["gpt_neox.layers.7"])
    with pytest.raises(SiteError, match="no site matches 'lm_head'"):
        resolve_sites(neox.model, ["lm_head"])


def test_globs_stay_within_a_component(neox: Subject) -> None:
    assert resolve_sites(neox.model, ["gpt_neox.layers.[12]", "gpt_neox.layers.0.mlp"]) == [
        "gpt_neox.layers.0.mlp",
        "gpt_neox.layers.1",
        "gpt_neox.layers.2",
    ]


def test_a_module_that_never_runs_is_an_error(neox: Subject) -> None:
    neox.model.gpt_neox.add_module("idle", torch.nn.Identity())
    with pytest.raises(SiteError, match=r"never runs gpt_neox\.idle"):
        run_to_sites(neox, TOKENS, ["gpt_neox.layers.0", "gpt_neox.idle"])
    del neox.model.gpt_neox.idle


def test_folder_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_folder("gpt_neox", tmp_path / "model")
    good = {"source": "folder", "path": "model", "sites": ("gpt_neox.layers.*",), "context": 32}
    for changes, error, message in (
        ({"context": 64}, ArtifactError, "context 64 is more than the model's 32 positions"),
        ({"sites": ("gpt_neox.blocks.*",)}, SiteError, "gpt_neox.blocks"),
        ({"path": "elsewhere"}, ArtifactError, "elsewhere is no Hugging Face model folder"),
    ):
        with pytest.raises(error, match=message):
            make_subject(FromFolder(**good | changes), {}, tmp_path / "out", tmp_path)
        assert not (tmp_path / "out" / "manifest.json").exists()
    make_subject(FromFolder(**good), {}, tmp_path / "out", tmp_path)
    assert "model.safetensors" in read_manifest(tmp_path / "out", kind="subject")["inputs"]
    with pytest.raises(ArtifactError, match="never finished"):
        load_subject(tmp_path / "model")


def test_weights_that_could_run_code_are_not_read(tmp_path: Path) -> None:
    write_folder("gpt_neox", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    settings = FromFolder(source="folder", path="model", sites=("gpt_neox.layers.*",), context=32)
    with pytest.raises(ArtifactError, match="safetensors"):
        make_subject(settings, {}, tmp_path / "out", tmp_path)


def test_hub_subjects_are_pinned() -> None:
    good = {"source": "hub", "id": "a/b", "revision": "step1000", "sites": ("x",), "context": 32}
    assert FromHub(**good).trust_remote_code is False
    with pytest.raises(ValueError, match="moves"):
        FromHub(**good | {"revision": "main"})
    with pytest.raises(ValueError, match="commit hash"):
        FromHub(**good | {"trust_remote_code": True})
    with pytest.raises(ValueError, match="revision"):
        FromHub(**{key: value for key, value in good.items() if key != "revision"})


def test_hub_without_network_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = FromHub(source="hub", id="nobody/nothing", revision="v1", sites=("x",), context=32)
    with pytest.raises(ArtifactError, match=r"nobody/nothing at revision v1.*source: folder"):
        make_subject(settings, {}, tmp_path / "out", tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_model_that_changed_where_it_lies_is_refused(tmp_path: Path, name: str) -> None:
    """Its SAEs were trained on what it was."""
    make("gpt_neox", tmp_path)
    folder, changed = tmp_path / "subjects" / "gpt_neox", tmp_path / "gpt_neox" / name
    before = changed.read_bytes()
    os.utime(changed)
    load_subject(folder)  # copied anew, the same bytes
    changed.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    for load in (load_subject, load_tokenizer):
        with pytest.raises(ArtifactError, match=rf"gpt_neox: {name} changed after .*rm \S+ && "):
            load(folder)
    changed.unlink()
    with pytest.raises(ArtifactError, match=rf"{name} changed"):
        load_subject(folder)


def test_weights_that_are_added_where_a_model_lies_are_seen(tmp_path: Path) -> None:
    make("gpt_neox", tmp_path)
    (tmp_path / "gpt_neox" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"model\.safetensors\.index\.json changed"):
        load_subject(tmp_path / "subjects" / "gpt_neox")

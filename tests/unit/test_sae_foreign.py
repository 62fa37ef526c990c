"""SAEs that other libraries wrote: equal outputs, or a refusal with the reason.

`tests/compat/write_fixtures.py` wrote the fixtures and their expected outputs with those libraries.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saeflow.sae.formats import FormatError, load_sae

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "saes"
FOLDERS = sorted(path.parent for path in FIXTURES.glob("*/*/expected.safetensors"))
NAMES = ["/".join(folder.parts[-2:]) for folder in FOLDERS]


def test_every_layout_and_class_has_a_fixture():
    layouts = [name.split("/")[0] for name in NAMES]
    counts = {layout: layouts.count(layout) for layout in layouts}
    assert counts == {"dictionary_learning": 8, "gemma_scope": 1, "saelens": 15, "sparsify": 2}


@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_outputs_equal_those_of_the_library(folder):
    expected, sae = load_file(folder / "expected.safetensors"), load_sae(folder)
    with torch.no_grad():
        encoded, reconstructed = sae.encode(expected["x"]), sae(expected["x"])
    for found, by_library in (
        (encoded, expected["encode"]),
        (reconstructed, expected["reconstruct"]),
    ):
        torch.testing.assert_close(found, by_library, atol=1e-5, rtol=1e-5)
    assert torch.equal(encoded > 0, expected["encode"] > 0)
    assert 0.1 < (encoded > 0).float().mean() < 0.7


class Changed:
    """A copy of a fixture in which a test breaks something."""

    def __init__(self, folder: Path, parent: Path) -> None:
        self.folder = parent / "sae"
        shutil.copytree(folder, self.folder)

    def json(self, name: str, change) -> None:
        path = self.folder / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def tensors(self, change) -> None:
        """Rewrite the weights as the library would, after `change` of the names and tensors."""
        if (path := self.folder / "ae.pt").exists():
            tensors = torch.load(path, weights_only=True)
            change(tensors)
            torch.save(tensors, path)
        elif (path := self.folder / "params.npz").exists():
            with np.load(path) as arrays:
                tensors = {name: torch.from_numpy(arrays[name]) for name in arrays}
            change(tensors)
            np.savez(path, **{name: t.numpy() for name, t in tensors.items()})
        else:
            path = self.folder / "sae.safetensors"
            tensors = load_file(path)
            change(tensors)
            save_file(tensors, path)

    def refused(self, reason: str) -> None:
        with pytest.raises(FormatError, match=reason) as refusal:
            load_sae(self.folder)
        assert str(self.folder) in str(refusal.value)


@pytest.fixture
def sparsify(tmp_path):
    return Changed(FIXTURES / "sparsify" / "topk", tmp_path)


@pytest.fixture
def gemma_scope(tmp_path):
    return Changed(FIXTURES / "gemma_scope" / "jumprelu", tmp_path)


def of_class(name: str, tmp_path: Path) -> Changed:
    return Changed(FIXTURES / "dictionary_learning" / name, tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"transcode": True}, "transcode is on, a transcoder"),
        ({"skip_connection": True}, "skip_connection is on, a linear connection"),
        ({"signed": True}, "signed is on, a selection by absolute value"),
        ({"signed": "no"}, "signed is 'no', it must be of type bool"),
        ({"activation": "groupmax"}, "activation 'groupmax' cannot be read"),
        ({"k": 0}, "k is 0, allowed is 1 to the 24"),
        ({"k": 25}, "k is 25, allowed"),
        ({"k": True}, "k is True, it must be"),
        ({"num_latents": 25}, r"encoder\.weight has shape \(24, 8\), expected \(25, 8\)"),
        ({"num_latents": 0}, r"encoder\.weight has shape \(24, 8\), expected \(256, 8\)"),
        ({"d_in": 8.0}, "d_in is 8.0, it must be"),
        ({"d_in": 0}, "d_in is 0, it must be 1 or more"),
        ({"num_latents": -24}, "num_latents is -24, it must be 1 or more"),
        ({"num_latents": 0, "expansion_factor": 0}, "expansion_factor is 0, it must be 1 or more"),
    ],
)
def test_a_wrong_sparsify_configuration_is_refused(sparsify, changes, reason):
    sparsify.json("cfg.json", lambda cfg: cfg.update(changes))
    sparsify.refused(reason)


@pytest.mark.parametrize("key", ["k", "d_in", "num_latents"])
def test_a_missing_key_of_sparsify_is_refused(sparsify, key):
    sparsify.json("cfg.json", lambda cfg: cfg.pop(key))
    sparsify.refused(f"no key '{key}'")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("W_dec"), "holds .*, a sparsify SAE has .*W_dec"),
        (lambda t: t.update(W_skip=torch.zeros(8, 8)), "holds .*W_skip"),
        (lambda t: t.update(W_dec=t["W_dec"].T.contiguous()), r"W_dec has shape \(8, 24\)"),
        (lambda t: t["b_dec"].fill_(float("nan")), "b_dec has values that are not finite"),
        (lambda t: t.update(b_dec=torch.zeros(8, dtype=torch.int)), "b_dec is not a dense float"),
    ],
)
def test_wrong_tensors_of_sparsify_are_refused(sparsify, change, reason):
    sparsify.tensors(change)
    sparsify.refused(reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.update(dict_class="IdentityDict"), "'IdentityDict' cannot be read, those"),
        (lambda t: t.update(dict_class="GatedAutoEncoder"), "holds .*, GatedAutoEncoder has .*r_m"),
        (lambda t: t.update(dict_class=None), "dict_class is None, it must be of type str"),
        (lambda t: t.update(dict_size=25), r"encoder\.weight has shape \(24, 8\), expected \(25"),
        (lambda t: t.pop("activation_dim"), "no key 'activation_dim'"),
        (lambda t: t.update(activation_dim=0), "activation_dim is 0, it must be 1 or more"),
        (lambda t: t.update(dict_size=-1), "dict_size is -1, it must be 1 or more"),
    ],
)
def test_a_wrong_configuration_of_dictionary_learning_is_refused(tmp_path, change, reason):
    changed = of_class("topk", tmp_path)
    changed.json("config.json", lambda config: change(config["trainer"]))
    changed.refused(reason)


def test_a_configuration_without_a_trainer_is_refused(tmp_path):
    changed = of_class("topk", tmp_path)
    changed.json("config.json", lambda config: config.pop("trainer"))
    changed.refused("no key 'trainer'")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("topk", lambda t: t.pop("b_dec"), "holds .*, AutoEncoderTopK has .*b_dec"),
        ("topk", lambda t: t.update(more=torch.zeros(1)), "holds .*more"),
        ("topk", lambda t: t.update({1: torch.zeros(1)}), "holds .*'1'"),
        ("topk", lambda t: t["b_dec"].fill_(float("inf")), "b_dec has values that are not finite"),
        ("topk", lambda t: t["k"].fill_(25), "k is 25, allowed is 1 to the 24"),
        ("topk", lambda t: t.update(k=torch.tensor(5.0)), "k is no single integer"),
        ("topk", lambda t: t.update(k=torch.tensor([5])), "k is no single integer"),
        ("topk", lambda t: t.update(k=torch.tensor(True)), "k is no single integer"),
        ("topk", lambda t: t.update(k=torch.tensor(5, device="meta")), "k is no single integer"),
        ("topk", lambda t: t.update(k=torch.tensor(5).to_sparse()), "k is no single integer"),
        ("topk", lambda t: t.update(b_dec=t["b_dec"].to_sparse()), "b_dec is not a dense"),
        ("topk", lambda t: t.update(b_dec=t["b_dec"].to("meta")), "b_dec is not a dense"),
        ("topk", lambda t: t.update(b_dec=t["b_dec"].cfloat()), "b_dec is not a dense floating"),
        ("topk", lambda t: t.update(b_dec="8"), "holds no state dict"),
        ("batchtopk", lambda t: t["threshold"].fill_(-1), "threshold is -1: training ended before"),
        ("matryoshka", lambda t: t["threshold"].fill_(-1), "threshold is -1"),
        ("matryoshka", lambda t: t["threshold"].fill_(float("nan")), "threshold has values"),
        ("gated", lambda t: t["r_mag"].fill_(1000), "r_mag has values whose exponential"),
        ("standard", lambda t: t["decoder.weight"][:, 3].zero_(), "a row of norm zero"),
        ("jumprelu", lambda t: t.update(threshold=torch.tensor(0.1)), r"threshold has shape \(\)"),
    ],
)
def test_wrong_tensors_of_dictionary_learning_are_refused(tmp_path, name, change, reason):
    changed = of_class(name, tmp_path)
    changed.tensors(change)
    changed.refused(reason)


def test_a_tensor_far_larger_than_its_file_is_refused_before_it_is_computed_with(tmp_path):
    """A single stored value, repeated without an end."""
    changed, rows = of_class("topk", tmp_path), 2**40
    changed.json("config.json", lambda config: config["trainer"].update(dict_size=rows))
    changed.tensors(
        lambda t: t.update(
            {
                "encoder.weight": torch.zeros(1, 1).expand(rows, 8),
                "encoder.bias": torch.zeros(1).expand(rows),
                "decoder.weight": torch.zeros(1, 1).expand(8, rows),
            }
        )
    )
    changed.refused("would take [0-9,]+ bytes, and the file has")


@pytest.mark.parametrize(
    ("name", "file"),
    [("dictionary_learning/topk", "ae.pt"), ("gemma_scope/jumprelu", "params.npz")],
)
def test_an_archive_that_unfolds_to_far_more_than_its_size_is_refused(tmp_path, name, file):
    changed = Changed(FIXTURES / name, tmp_path)
    with ZipFile(changed.folder / file, "a", ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/99", bytes(10 << 20))
    assert (changed.folder / file).stat().st_size < 1 << 17
    changed.refused("its content would take 10,[0-9,]+ bytes, and the file has")


def test_a_compressed_archive_of_weights_is_read(gemma_scope):
    path = gemma_scope.folder / "params.npz"
    with np.load(path) as arrays:
        np.savez_compressed(path, **dict(arrays))
    assert torch.equal(load_sae(path).W_enc, load_sae(FIXTURES / "gemma_scope/jumprelu").W_enc)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("threshold"), "holds .*, a Gemma Scope SAE has .*threshold"),
        (lambda t: t.pop("W_enc"), "no matrix W_enc"),
        (lambda t: t.update(W_enc=torch.zeros(8)), "no matrix W_enc"),
        (lambda t: t.update(W_enc=torch.zeros(0, 24)), r"W_enc has shape \(0, 24\), both must be"),
        (lambda t: t.update(W_dec=t["W_enc"]), r"W_dec has shape \(8, 24\), expected \(24, 8\)"),
        (lambda t: t.update(scale=torch.ones(1)), "holds .*scale"),
        (lambda t: t["threshold"].fill_(float("nan")), "threshold has values that are not finite"),
        (lambda t: t.update(b_enc=torch.zeros(24).int()), "b_enc is not a dense floating"),
    ],
)
def test_wrong_tensors_of_gemma_scope_are_refused(gemma_scope, change, reason):
    gemma_scope.tensors(change)
    gemma_scope.refused(reason)


def test_a_single_array_under_the_name_of_an_archive_is_refused(gemma_scope):
    with (gemma_scope.folder / "params.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    gemma_scope.refused("is not a readable npz file")


@pytest.mark.parametrize("name", NAMES)
def test_truncated_or_missing_files_are_refused(tmp_path, name):
    """At every quarter of every file but the expected output."""
    files = [path.name for path in (FIXTURES / name).iterdir() if path.stem != "expected"]
    for file in files:
        whole = (FIXTURES / name / file).read_bytes()
        for quarter in range(4):
            changed = Changed(FIXTURES / name, tmp_path / f"{file}-{quarter}")
            (changed.folder / file).write_bytes(whole[: quarter * len(whole) // 4])
            changed.refused("is not a? ?readable")
    changed = Changed(FIXTURES / name, tmp_path / "missing")
    (changed.folder / files[0]).unlink()
    changed.refused("is not readable JSON|no weights of a known layout")


@pytest.mark.parametrize(
    "name", ["sparsify/topk", "dictionary_learning/gated", "gemma_scope/jumprelu"]
)
def test_half_precision_loads_as_float32(tmp_path, name):
    dtype = torch.float16 if "gemma" in name else torch.bfloat16  # numpy knows no bfloat16
    changed, full = Changed(FIXTURES / name, tmp_path), load_sae(FIXTURES / name)
    changed.tensors(lambda t: t.update({n: x.to(dtype) for n, x in t.items()}))
    loaded = load_sae(changed.folder)
    for n, parameter in full.named_parameters():
        assert torch.equal(loaded.get_parameter(n), parameter.to(dtype).float())


class Hostile:
    """An object that creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("dump", ["torch", "legacy", "pickle"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_pickle_with_code_is_refused_before_the_code_runs(tmp_path, dump, inside):
    changed, target = of_class("topk", tmp_path), tmp_path / "created"
    path = changed.folder / "ae.pt"
    tensors = torch.load(path, weights_only=True)
    content = {**tensors, "b_dec": Hostile(target)} if inside else Hostile(target)
    if dump == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=dump == "torch")
    changed.refused(r"ae\.pt is not a readable file of plain tensors")
    assert not target.exists()
    if dump != "pickle":
        torch.load(path, weights_only=False)
        assert target.exists(), "the file would not have done harm"


def test_an_archive_with_objects_is_refused_before_their_code_runs(gemma_scope, tmp_path):
    target, path = tmp_path / "created", gemma_scope.folder / "params.npz"
    with np.load(path) as arrays:
        hostile = {**arrays, "threshold": np.array([Hostile(target)], dtype=object)}
    np.savez(path, **hostile)
    gemma_scope.refused(r"params\.npz is not a readable npz file of plain arrays")
    assert not target.exists()
    with np.load(path, allow_pickle=True) as arrays:
        arrays["threshold"]
    assert target.exists(), "the file would not have done harm"

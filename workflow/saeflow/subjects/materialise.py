"""Make a subject's artefact folder from any of its four sources."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from saeflow.artifacts import (
    ArtifactError,
    Clock,
    begin,
    clear_folder,
    read_manifest,
    write_json,
    write_manifest,
)
from saeflow.fingerprint import fingerprint
from saeflow.progress import say
from saeflow.subjects.folder import POINTER, location
from saeflow.subjects.settings import (
    FromFolder,
    FromHub,
    FromLlama2c,
    PretrainedHere,
    PretrainSettings,
    SubjectSettings,
)
from saeflow.subjects.sites import match_sites, sites_of

STATE_FOLDER = "trainer"
"""Where pretraining keeps what it needs to go on, until the folder is complete."""

Made = tuple[dict[str, Path], dict[str, Any]]
"""What a source gives beside the files: inputs and statistics for the manifest."""


def make_subject(
    settings: SubjectSettings,
    corpora: Mapping[str, Path],
    out: Path,
    root: Path,
    device: str = "cpu",
) -> None:
    """Write subject folder `out`; relative paths of the settings start from `root`.

    Pretrained, shipped and converted weights lie in the folder; of a hub model or another folder
    it holds a pointer, `subject.json`. `corpora` are needed for pretraining only. Raises
    ArtifactError for files that are missing, damaged or do not fit the settings, SiteError for
    sites that the model does not have.
    """
    clock = Clock()
    begin(out)
    inputs, stats = _from_source(settings, corpora, out, root, device)
    _check(settings, out)
    write_manifest(
        out,
        kind="subject",
        settings=settings.model_dump(mode="json"),
        files=[path.name for path in out.iterdir() if path.is_file()],
        inputs=inputs,
        stats=stats,
        seed=settings.training.seed if isinstance(settings, PretrainedHere) else None,
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )
    shutil.rmtree(out / STATE_FOLDER, ignore_errors=True)


def _from_source(
    settings: SubjectSettings, corpora: Mapping[str, Path], out: Path, root: Path, device: str
) -> Made:
    if isinstance(settings, PretrainedHere):
        if settings.pretrain:
            return _train(settings.training, corpora, out, device)
        assert settings.shipped is not None
        return _copy_shipped(settings.training, root / settings.shipped, out)
    clear_folder(out)
    if isinstance(settings, FromLlama2c):
        return _convert(root / settings.checkpoint, root / settings.tokenizer, out)
    if isinstance(settings, FromFolder):
        return _point_at_folder(root / settings.path, out)
    return _point_at_hub(settings, out)


def _train(training: PretrainSettings, corpora: Mapping[str, Path], out: Path, device: str) -> Made:
    from saeflow.subjects.pretrain import pretrain

    for path in out.glob("*.*"):
        if path.is_file():
            path.unlink()
    used = {name: path for name, path in corpora.items() if name in training.mixture}
    return dict(used), pretrain(training, used, out, out / STATE_FOLDER, device)


def _copy_shipped(training: PretrainSettings, shipped: Path, out: Path) -> Made:
    manifest = read_manifest(shipped, kind="subject", deep=True)
    theirs, ours = manifest["settings"]["training"], training.model_dump(mode="json")
    if theirs != ours:
        changed = sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key))
        raise ArtifactError(
            f"{shipped} was trained with another {', '.join(changed)} than `training` asks for; "
            "set pretrain: true to train with these settings, or take the shipped ones back"
        )
    clear_folder(out)
    for name in manifest["files"]:
        shutil.copyfile(shipped / name, out / name)
    return {"shipped": shipped}, manifest["stats"]


def _convert(checkpoint: Path, tokenizer: Path, out: Path) -> Made:
    from saeflow.subjects.llama2c import convert

    for path in (checkpoint, tokenizer):
        if not path.is_file():
            raise ArtifactError(f"{path} does not exist; a llama2c subject needs both its files")
    convert(checkpoint, tokenizer, out)
    return {"checkpoint": checkpoint, "tokenizer": tokenizer}, {}


def _point_at_folder(path: Path, out: Path) -> Made:
    found = sorted(p for p in path.glob("*") if p.suffix in (".json", ".safetensors", ".model"))
    names = [p.name for p in found]
    if "config.json" not in names or not any(p.suffix == ".safetensors" for p in found):
        raise ArtifactError(
            f"{path} is no Hugging Face model folder: it needs config.json and .safetensors "
            f"weights, it holds {', '.join(names) or 'neither'}"
        )
    write_json(out / POINTER, {"path": str(path.resolve()), "revision": None})
    return {p.name: p for p in found}, {}


def _point_at_hub(settings: FromHub, out: Path) -> Made:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    say(f"fetching {settings.id} at {settings.revision}")
    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    wanted += ["*.py"] if settings.trust_remote_code else []
    try:
        local = Path(
            snapshot_download(settings.id, revision=settings.revision, allow_patterns=wanted)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ArtifactError(
            f"{settings.id} at revision {settings.revision} is neither in the local cache nor "
            f"could it be fetched ({type(error).__name__}: {error}); without network, copy a "
            "download of it here and name it with source: folder"
        ) from error
    # The cache names a snapshot by the commit that the revision stands for.
    write_json(out / POINTER, {"path": settings.id, "revision": local.name})
    return {"config": local / "config.json"}, {"commit": local.name}


def _check(settings: SubjectSettings, out: Path) -> None:
    where = location(out, settings.model_dump())
    config = AutoConfig.from_pretrained(**where)
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    if longest is not None and settings.context > longest:
        raise ArtifactError(
            f"{out}: context {settings.context} is more than the model's {longest} positions"
        )
    tokenizer = AutoTokenizer.from_pretrained(**where)
    if len(tokenizer) > text.vocab_size:
        raise ArtifactError(
            f"{out}: the tokenizer has {len(tokenizer)} entries, the model {text.vocab_size}"
        )
    if settings.prepend_bos and tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise ArtifactError(f"{out}: prepend_bos: the tokenizer has no begin or end token")
    trusted, revision = where.get("trust_remote_code", False), where.get("revision")
    match_sites(sites_of(config, trusted, revision), settings.sites)

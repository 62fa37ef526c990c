"""Checks of the configuration against what lies on disk, before the first job.

`config.py` knows what is well formed; this module knows whether the files are there and whether a
subject has the sites that are asked of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from saeflow.artifacts import ArtifactError
from saeflow.asked_metrics import asked_measures, labelled_corpora
from saeflow.autointerp.settings import Local
from saeflow.config import Config, ConfigError
from saeflow.corpora.settings import Files, Hub
from saeflow.debias.settings import SHIPPED_DECISIONS
from saeflow.grids import Debiasing, SiteFolders
from saeflow.lineage import made_of
from saeflow.preflight_debias import debias_mistakes
from saeflow.retrieval.settings import HuggingFace, Selection
from saeflow.sae.identity import CONFIGS, sae_files
from saeflow.sae.settings import FolderBase, TrainedBase, TrainedInit
from saeflow.subjects.settings import FromFolder, FromHub, FromLlama2c, PretrainedHere


def check_files(config: Config, project: Path) -> None:
    """Raise ConfigError listing every site, folder and file of the config that does not exist."""
    mistakes = [
        *_corpus_mistakes(config),
        *_subject_mistakes(config, project),
        *_base_mistakes(config),
        *dict.fromkeys(_width_mistakes(config)),
        *_debias_mistakes(config, project),
        *_encoder_mistakes(config),
        *_judge_mistakes(config),
        *_ravel_mistakes(config),
    ]
    if mistakes:
        raise ConfigError("\n".join(dict.fromkeys(mistakes)))


def corpus_files(config: Config, corpus: str) -> list[str]:
    """Return the files that a corpus is read from; raises ConfigError if a glob finds none."""
    settings = config.corpora[corpus]
    if isinstance(settings, Hub) and settings.folder and config.data_dir:
        found = (config.data_dir / settings.folder).rglob("*")
        return sorted(str(path) for path in found if path.is_file())
    if not isinstance(settings, Files):
        return []
    from saeflow.corpora.documents import CorpusError
    from saeflow.corpora.files import find_files

    if config.data_dir is None:
        raise ConfigError(f"corpora.{corpus}.paths: set data_dir, the folder they are relative to")
    try:
        return [str(path) for path in find_files(settings.paths, config.data_dir).values()]
    except CorpusError as error:
        raise ConfigError(f"corpora.{corpus}.paths: {error}") from error


def subject_files(config: Config, name: str, project: Path) -> list[str]:
    """Return the files whose change makes a subject another one."""
    subject, root = config.subjects[name], subject_root(config, name, project)
    if isinstance(subject, PretrainedHere):
        return [] if subject.pretrain else [f"{root / str(subject.shipped)}/manifest.json"]
    if isinstance(subject, FromLlama2c):
        return [str(root / subject.checkpoint), str(root / subject.tokenizer)]
    if isinstance(subject, FromFolder):
        found = (root / subject.path).glob("*")
        return sorted(str(p) for p in found if p.suffix in {".json", ".safetensors", ".model"})
    return []


def base_folder(config: Config, base: FolderBase | SiteFolders, site: str) -> Path:
    """Return the folder or file of an SAE from elsewhere; `{site}` in its path is the module.

    Raises ConfigError without `data_dir`, for a path that leaves it, and where nothing is there.
    """
    if config.data_dir is None:
        raise ConfigError(f"path {base.path!r}: set data_dir, the folder it is relative to")
    path = config.data_dir / base.path.replace("{site}", site)
    if not path.resolve().is_relative_to(config.data_dir.resolve()):
        raise ConfigError(f"path {base.path!r} leaves data_dir {config.data_dir}")
    if not path.exists():
        raise ConfigError(f"path {base.path!r}: {path} does not exist")
    return path


def base_files(config: Config, base: FolderBase | SiteFolders, site: str) -> list[str]:
    """Return the files of an SAE from elsewhere, whose change makes it another one."""
    return [str(file) for file in sae_files(base_folder(config, base, site))]


def person_files(config: Config, debias: Debiasing) -> list[str]:
    """Return the files with a person's decisions on latents; those that are shipped are none.

    Raises ConfigError for a file that leaves `data_dir` or is not there.
    """
    files = []
    for kind, name in debias.protocol.person.items():
        if name in SHIPPED_DECISIONS:
            continue
        where = f"debias.protocol.person.{kind}"
        if config.data_dir is None:
            raise ConfigError(f"{where}: set data_dir, the folder that {name!r} is relative to")
        path = config.data_dir / name
        if not path.resolve().is_relative_to(config.data_dir.resolve()) or not path.is_file():
            raise ConfigError(f"{where}: {path} is no file below data_dir")
        files.append(str(path))
    return files


def _base_mistakes(config: Config) -> Iterator[str]:
    for paper in config.papers:
        for _, point in config.points(paper):
            variant = config.variants[point.variant]
            for key, other in (("error_of", variant.error_of), ("init_from", variant.init_from)):
                if isinstance(other, FolderBase):
                    where = f"variants.{point.variant}.{key}"
                    yield from _missing_folder(config, other, point.site, where)
        if (debias := config.paper(paper).debias) is None:
            continue
        for kind, saes in debias.saes.items():
            if isinstance(saes, SiteFolders):
                for site in debias.protocol.sites.values():
                    yield from _missing_folder(config, saes, site, f"{paper}.debias.saes.{kind}")
        try:
            person_files(config, debias)
        except ConfigError as error:
            yield f"{paper}.{error}"


def _missing_folder(
    config: Config, other: FolderBase | SiteFolders, site: str, where: str
) -> Iterator[str]:
    try:
        base_folder(config, other, site)
    except ConfigError as error:
        yield f"{where}.{error}"


def _width_mistakes(config: Config) -> Iterator[str]:
    """Yield where points ask for another width than their `init_from` on disk makes possible."""
    for paper in config.papers:
        for key, point in config.points(paper):
            start = config.variants[point.variant].init_from
            if not isinstance(start, FolderBase):
                continue
            found = _told_width(config, start, point.site)
            settings = config.sae(point.variant, point.d_sae, point.l0, 0)
            if found not in (None, settings.start_width):
                added = settings.added_latents
                yield (
                    f"{key}.d_sae: {point.variant} starts from {start.path} of {found} latents "
                    f"and adds {added}: set {found + added}, it is {point.d_sae}"
                )


def _told_width(config: Config, start: FolderBase, site: str) -> int | None:
    """Return the latents of an SAE from elsewhere, where it has a config that says so."""
    try:
        return json.loads((base_folder(config, start, site) / CONFIGS[0]).read_text())["d_sae"]
    except (ConfigError, OSError, ValueError, KeyError, TypeError):
        return None  # a job tells what is wrong with it


def used_corpora(config: Config) -> set[str]:
    """Return the corpora that the chosen papers read, and those that they are made of."""
    used: set[str] = set()
    waiting = [corpus for paper in config.papers for corpus in _named_corpora(config, paper)]
    waiting += [corpus for _, corpus in labelled_corpora(config)]
    while waiting:
        name = waiting.pop()
        if name in used:
            continue
        used.add(name)
        waiting += made_of(config.corpora[name])
    return used


def _named_corpora(config: Config, paper: str) -> Iterator[str]:
    section = config.paper(paper)
    for _, point in config.points(paper):
        yield point.corpus
        variant, subject = config.variants[point.variant], config.subjects[point.subject]
        for other in (variant.error_of, variant.init_from):
            if isinstance(other, TrainedBase | TrainedInit):
                yield other.corpus
        if isinstance(subject, PretrainedHere) and subject.pretrain:
            yield from subject.training.mixture
    for sweep in section.sweeps.values():
        yield from (tested.corpus for tested in sweep.tested.values())
    if section.debias is not None:
        yield section.debias.corpus


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def package_version(package: str) -> str:
    """Return the version of an installed package by its import name, or an empty text."""
    distributions = _distributions().get(package, [])
    return metadata.version(distributions[0]) if distributions else ""


def subject_root(config: Config, name: str, project: Path) -> Path:
    """Folder that a subject's relative paths start from: the project's own for shipped weights,
    else `data_dir` where it is set."""
    if isinstance(config.subjects[name], PretrainedHere) or config.data_dir is None:
        return project
    return config.data_dir


def _corpus_mistakes(config: Config) -> Iterator[str]:
    for name in sorted(used_corpora(config)):
        try:
            corpus_files(config, name)
        except ConfigError as error:
            yield str(error)
        settings = config.corpora[name]
        if isinstance(settings, Hub) and settings.folder is not None:
            if config.data_dir is None:
                yield f"corpora.{name}.folder: set data_dir, the folder it is relative to"
            elif not (config.data_dir / settings.folder).is_dir():
                yield f"corpora.{name}.folder: {config.data_dir / settings.folder} does not exist"


def _subject_mistakes(config: Config, project: Path) -> Iterator[str]:
    asked = {
        (key, point.subject, point.site): None
        for paper in config.papers
        for key, point in config.points(paper)
    }
    for key, subject, site in asked:
        try:
            sites = subject_sites(config, subject, project)
        except ConfigError as error:
            yield str(error)
            continue
        if sites is not None and site not in sites:
            yield (
                f"{key}.site: subject {subject!r} has no module {site!r}; its blocks are "
                f"{', '.join(_blocks(sites))}"
            )


def _debias_mistakes(config: Config, project: Path) -> Iterator[str]:
    for paper in config.papers:
        if (debias := config.paper(paper).debias) is None:
            continue
        try:
            modules = subject_sites(config, debias.subject, project)
        except ConfigError:  # reported with the subjects
            modules = None
        corpus = config.corpora[debias.corpus]
        for mistake in debias_mistakes(debias, corpus, modules, config.data_dir):
            yield f"{paper}.debias.{mistake}"


def _encoder_mistakes(config: Config) -> Iterator[str]:
    corpora = [config.corpora[name] for name in used_corpora(config)]
    named = {c.dense for c in corpora if isinstance(c, Selection) and c.dense is not None}
    for name in sorted(named):
        encoder = config.retrieval.dense[name].encoder
        if not isinstance(encoder, HuggingFace) or encoder.folder is None:
            continue
        where = f"retrieval.dense.{name}.encoder.folder"
        if config.data_dir is None:
            yield f"{where}: set data_dir, the folder it is relative to"
        elif not (config.data_dir / encoder.folder / "config.json").is_file():
            yield f"{where}: {config.data_dir / encoder.folder} holds no config.json"


def _judge_mistakes(config: Config) -> Iterator[str]:
    judge = config.autointerp.judge
    explained = any(config.paper(paper).sweeps for paper in config.papers)
    explains = explained or "detection" in asked_measures(config)
    if not explains or not isinstance(judge, Local) or judge.path is None:
        return
    where = "autointerp.judge.path"
    if config.data_dir is None:
        yield f"{where}: set data_dir, the folder it is relative to"
        return
    folder = config.data_dir / judge.path
    for needed in ("config.json", "*.safetensors"):
        if not any(folder.glob(needed)):
            yield f"{where}: {folder} holds no {needed}"


def _ravel_mistakes(config: Config) -> Iterator[str]:
    file = config.evaluation.ravel.file
    if file is None or "ravel" not in asked_measures(config):
        return
    where = "evaluation.ravel.file"
    if config.data_dir is None:
        yield f"{where}: set data_dir, the folder that {file!r} is relative to"
    elif not (config.data_dir / file).is_file():
        yield f"{where}: {config.data_dir / file} does not exist"


def _blocks(sites: list[str]) -> list[str]:
    return [site for site in sites if site.rsplit(".", 1)[-1].isdigit()] or sites[:20]


def subject_sites(config: Config, name: str, project: Path) -> list[str] | None:
    """Return the module names of a subject, without its weights; None where only a hub knows.

    The answer is kept in `.snakemake`, since building a model, even without weights, takes seconds.
    Raises ConfigError for a folder or file that is not there.
    """
    description = _model_description(config, name, project)
    if description is None:
        return None
    text = json.dumps(description, sort_keys=True)
    cache = Path(".snakemake/saeflow") / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if cache.is_file():
        return json.loads(cache.read_text())
    from saeflow.artifacts import write_json
    from saeflow.subjects.sites import known_sites

    try:
        sites = known_sites(description)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"subjects.{name}: its config.json describes no causal language model that this "
            f"version of transformers builds ({type(error).__name__}: {error})"
        ) from error
    write_json(cache, sites)
    return sites


def _model_description(config: Config, name: str, project: Path) -> dict[str, Any] | None:
    subject, root = config.subjects[name], subject_root(config, name, project)
    if isinstance(subject, PretrainedHere):
        return _pretrained_description(name, subject, root)
    if isinstance(subject, FromFolder):
        return _read_description(root / subject.path, f"subjects.{name}.path")
    if isinstance(subject, FromLlama2c):
        return _llama2c_description(name, subject, root)
    assert isinstance(subject, FromHub)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(subject.id, "config.json", revision=subject.revision)
    return json.loads(Path(found).read_text()) if isinstance(found, str) else None


def _llama2c_description(name: str, subject: FromLlama2c, root: Path) -> dict[str, Any]:
    for key in ("checkpoint", "tokenizer"):
        path = root / getattr(subject, key)
        if not path.is_file():
            raise ConfigError(f"subjects.{name}.{key}: {path} does not exist")
    from saeflow.subjects.llama2c import read_header

    try:
        header = read_header(root / subject.checkpoint)
    except ArtifactError as error:
        raise ConfigError(f"subjects.{name}.checkpoint: {error}") from error
    return {"model_type": "llama", "num_hidden_layers": header.layers}


def _pretrained_description(name: str, subject: PretrainedHere, project: Path) -> dict[str, Any]:
    if not subject.pretrain:
        assert subject.shipped is not None
        return _read_description(project / subject.shipped, f"subjects.{name}.shipped")
    return {"model_type": "gpt_neox", "num_hidden_layers": subject.training.layers}


def _read_description(folder: Path, key: str) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"{key}: {path} does not exist") from error
    except ValueError as error:
        raise ConfigError(f"{key}: {path} is not valid JSON: {error}") from error

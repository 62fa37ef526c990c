# The checked configuration, and the functions with which rules look things up in it.

import os
import re
from collections import Counter
from itertools import product
from pathlib import Path
from types import SimpleNamespace

from snakemake.exceptions import WorkflowError

try:
    from saeflow.autointerp.kinds import judge_code, judge_files
    from saeflow.config import ConfigError, load_config
    from saeflow.figures.caption_values import filled
    from saeflow.figures.sweep_settings import SHARED_MEASURES
    from saeflow.fingerprint import fingerprint
    from saeflow.job import share_library
    from saeflow.measures import FILES as MEASURE_FILES
    from saeflow.measures import PAIR_MEASURES, measure_of, measure_of_grid
    from saeflow.paths import FIGURE_SUFFIXES, POINT, TABLE_SUFFIXES, Paths
    from saeflow.preflight import (
        base_files,
        base_folder,
        check_files,
        corpus_files,
        package_version,
        person_files,
        subject_files,
        subject_root,
    )
    from saeflow.references import TIMING_SPLIT
    from saeflow.retrieval.encoders import encoder_files
    from saeflow.retrieval.settings import BM25_INDEX
    from saeflow.sae.identity import training_code
    from saeflow.sae.settings import TIMING_METRIC
except ModuleNotFoundError as error:
    raise WorkflowError(
        f"{error.name} is not installed in the environment of this snakemake: "
        "run `make install` (or `pip install -e .`) and call snakemake from that environment"
    ) from error

share_library()
PROJECT = Path(os.path.relpath(workflow.basedir))

try:
    CFG = load_config(config, PROJECT / "config")
    check_files(CFG, PROJECT)
except ConfigError as error:
    raise WorkflowError(
        f"the configuration is wrong, nothing was started:\n{error}"
    ) from error

P = Paths(CFG.root)


wildcard_constraints:
    corpus=r"\w+",
    subject=r"\w+",
    variant=r"\w+",
    paper=r"\w+",
    name=r"\w+",
    site=r"[\w.]+",
    split=r"train|validation|test",
    d_sae=r"\d+",
    l0=r"\d+",
    seed=r"\d+",
    sweep=r"\w+",
    series=r"\w+",
    tested=r"\w+",


def manifest(folder):
    return f"{folder}/manifest.json"


def plain(settings):
    """Settings as the plain values that Snakemake compares from run to run."""
    return settings.model_dump(mode="json")


def one_of(names):
    """A wildcard constraint: any of the names, or nothing at all."""
    return "|".join(map(re.escape, names)) or r"(?!)"

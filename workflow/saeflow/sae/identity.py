"""What a training is made from beside settings and activations: its code and other SAEs.

It knows no torch, so that the workflow can ask before any job starts.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from saeflow.artifacts import file_digest
from saeflow.fingerprint import fingerprint
from saeflow.sae.settings import FolderBase, Variant

CONFIGS = ("cfg.json", "config.json")
WEIGHTS = ("sae_weights.safetensors", "sae.safetensors", "ae.pt", "params.npz")
"""Files that the readers of `formats.load_sae` open."""


def training_code(variant: Variant) -> str:
    """Return the hash of all code that decides the weights of an SAE of `variant`.

    `launch` takes the code of several processes, and `load_sae` the readers of other libraries'
    files, only when called, so both are named here; the readers only where a folder is read.
    """
    modules = ["saeflow.sae.trainer", "saeflow.sae.parallel"]
    if any(isinstance(other, FolderBase) for other in (variant.error_of, variant.init_from)):
        modules.append("saeflow.sae.foreign")
    return fingerprint(*modules)


def sae_files(path: str | Path) -> list[Path]:
    """Return the files that `load_sae` may read for `path`, a folder or a file of weights in one.

    Logs and manifests, which hold times, are none of them.
    """
    path = Path(path)
    folder, weights = (path, WEIGHTS) if path.is_dir() else (path.parent, (path.name,))
    return [file for name in (*CONFIGS, *weights) if (file := folder / name).is_file()]


def sae_digest(path: str | Path) -> str:
    """Return the SHA-256 of what decides an SAE: of its `sae_files`, with their names."""
    digests = [f"{file.name} {file_digest(file)}" for file in sae_files(path)]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()

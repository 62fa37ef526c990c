"""The SAEs of an experiment, checked against the sites that the probe can see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from saeflow.artifacts import MANIFEST, read_manifest
from saeflow.debias.patched import states_at
from saeflow.debias.settings import DebiasSettings
from saeflow.sae.formats import load_sae
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject
from saeflow.subjects.sites import SiteError
from saeflow.subjects.splice import spliced

_TRIAL_TOKENS = 4


@torch.no_grad()
def widths_before_probe(subject: Subject, settings: DebiasSettings) -> dict[str, int]:
    """Return the entries a token of each site's module, in the order of the forward pass.

    Raises SiteError for a module that the subject lacks or that has not run when the probe reads.
    """
    widths: dict[str, int] = {}

    def watch(module: str) -> Callable[[Tensor], Tensor]:
        def keep(x_btd: Tensor) -> Tensor:
            widths[module] = x_btd.shape[-1]
            return x_btd

        return keep

    with ExitStack() as stack:
        for module in settings.sites.values():
            stack.enter_context(spliced(subject, module, watch(module)))
        tokens_bt = torch.zeros(1, _TRIAL_TOKENS, dtype=torch.long)
        states_at(subject, tokens_bt, settings.probe_site)
    late = [f"{site} ({m})" for site, m in settings.sites.items() if m not in widths]
    if late:
        raise SiteError(
            f"{subject.name}: {', '.join(late)} run after {settings.probe_site}, whose output the "
            "probe reads: they cannot change its answer; remove them from sites"
        )
    return widths


def load_saes(
    kind: str,
    folders: Mapping[str, Path],
    settings: DebiasSettings,
    widths: Mapping[str, int],
    d_sae: int,
    device: str,
) -> dict[str, SAE]:
    """Return the SAEs of a kind by module, in the order of `widths`.

    Raises ValueError where their sites are not those of the settings, for an SAE of another width
    than its site, for a residual one and for one that has not `d_sae` latents; ArtifactError and
    FormatError for a damaged one.
    """
    if set(folders) != set(settings.sites):
        wrong = sorted(set(folders) ^ set(settings.sites))
        raise ValueError(
            f"SAEs of kind {kind} are given for {', '.join(folders) or 'no site'}, the sites are "
            f"{', '.join(settings.sites)}; they differ in {', '.join(wrong)}"
        )
    names = {module: site for site, module in settings.sites.items()}
    saes = {}
    for module, width in widths.items():
        folder = folders[names[module]]
        if (folder / MANIFEST).is_file():
            stats = read_manifest(folder, kind="sae")["stats"]
            if stats.get("base") is not None:
                raise ValueError(
                    f"{folder} corrects another SAE and rebuilds no activations by itself: give "
                    f"kind {kind} SAEs without error_of"
                )
        saes[module] = load_sae(folder).to(device).requires_grad_(False)
        if saes[module].d_in != width:
            raise ValueError(
                f"{folder} reads {saes[module].d_in} entries a token, {names[module]} ({module}) "
                f"passes on {width}: give the site an SAE that was trained on it"
            )
        if saes[module].d_sae != d_sae:
            raise ValueError(
                f"{folder} has {saes[module].d_sae:,} latents, d_sae of kind {kind} is {d_sae:,}, "
                "which figures state: mend d_sae, or give the site another SAE"
            )
    return saes

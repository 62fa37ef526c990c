"""Sites: naming the modules of a subject, and one forward pass that reads them all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from saeflow.subjects.load import Subject
from saeflow.subjects.patterns import site_matches


class SiteError(ValueError):
    """A site that the subject does not have."""


def site_names(model: PreTrainedModel) -> list[str]:
    """Return the names of all modules inside the model's body (what precedes the LM head)."""
    prefix = model.base_model_prefix + "."
    return [name for name, _ in model.named_modules() if name.startswith(prefix)]


def known_sites(config: Mapping[str, Any]) -> list[str]:
    """Return the sites of the model that a `config.json` describes, without any weights."""
    entries = {key: value for key, value in config.items() if key != "model_type"}
    return sites_of(AutoConfig.for_model(config["model_type"], **entries))


def sites_of(
    config: PreTrainedConfig, trust_remote_code: bool = False, revision: str | None = None
) -> list[str]:
    """Return the sites of the model that `config` describes, built without memory for weights.

    Trusted code that `config` brings along is run at the commit `revision`: the config alone does
    not say from which commit it came.
    """
    brings_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    pinned = {"code_revision": revision} if trust_remote_code and brings_code else {}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, trust_remote_code=trust_remote_code, **pinned
        )
    return site_names(model)


def match_sites(names: Sequence[str], patterns: Iterable[str]) -> list[str]:
    """Return the `names` that match any glob, in the order of the model.

    `*` matches within one component only: `gpt_neox.layers.*` are the blocks, not their parts.
    Raises SiteError for a pattern that matches nothing, with near matches.
    """
    found: set[str] = set()
    for pattern in patterns:
        matches = [name for name in names if site_matches(name, pattern)]
        if not matches:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5)
            blocks = [name for name in names if name.count(".") <= 2]
            raise SiteError(
                f"no site matches {pattern!r}"
                + (f"; did you mean {', '.join(near)}?" if near else "")
                + f" There are, among {len(names)}: {', '.join(blocks[:40])}"
            )
        found.update(matches)
    return [name for name in names if name in found]


def resolve_sites(model: PreTrainedModel, patterns: Iterable[str]) -> list[str]:
    """Return the sites of `model` that match `patterns`; see `match_sites`."""
    return match_sites(site_names(model), patterns)


class _AllRead(Exception):
    """Leaves a forward pass of which nothing more is needed."""


@torch.no_grad()
def run_to_sites(subject: Subject, tokens_bt: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
    """Return the outputs (b, t, d) at `sites` from one forward pass of the body.

    The pass has no LM head and ends at the last site that it reaches. Rows of different length
    may be padded on the right with any token: in a causal model what follows a position cannot
    change it, so the caller only drops the padded positions. Of a module that returns a tuple
    the first entry is read.
    """
    read: dict[str, Tensor] = {}

    def reader(site: str) -> Any:
        def read_output(module: nn.Module, args: Any, output: Any) -> None:
            read[site] = first(output)
            if len(read) == len(sites):
                raise _AllRead

        return read_output

    handles = [module_at(subject, s).register_forward_hook(reader(s)) for s in sites]
    try:
        run_body(subject, tokens_bt)
    except _AllRead:
        pass
    finally:
        for handle in handles:
            handle.remove()
    unread = [site for site in sites if site not in read]
    if unread:
        raise SiteError(f"{subject.name}: the forward pass never runs {', '.join(unread)}")
    return {site: read[site] for site in sites}


def run_body(subject: Subject, tokens_bt: Tensor) -> Tensor:
    """Return the final states (b, t, d) that the LM head reads, without running the head."""
    output = subject.model.base_model(tokens_bt.to(subject.device), use_cache=False)
    return output.last_hidden_state


def module_at(subject: Subject, site: str) -> nn.Module:
    """Return the module of a site; raises SiteError where there is none."""
    try:
        return subject.model.get_submodule(site)
    except AttributeError:
        match_sites(site_names(subject.model), [site])
        raise


def first(output: Any) -> Tensor:
    """Return the tensor that a module passes on: its output, or the first entry of a tuple."""
    return output[0] if isinstance(output, tuple) else output

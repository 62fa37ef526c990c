"""Site names and the globs that choose among them; light enough for the configuration to use."""

from __future__ import annotations

from fnmatch import fnmatchcase


def site_matches(site: str, pattern: str) -> bool:
    """Whether a module's dotted name matches a glob, whose `*` stays within one component."""
    names, globs = site.split("."), pattern.split(".")
    return len(names) == len(globs) and all(map(fnmatchcase, names, globs))

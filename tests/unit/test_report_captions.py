from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import figures_planted as planted
import pytest
import sweeps_planted
from docutils.core import publish_parts
from jinja2 import Environment, StrictUndefined

CAPTIONS = Path(__file__).resolve().parents[2] / "workflow" / "report"
SETTINGS = {
    "title": "A title with d_sae_ and *stars*",
    "source": "after OrtSAE Fig. 1",
    "statement": "What the paper says: a|b|.",
    "caption": "What is shown.",
    "not_measured": ["absorption rate"],
}


@pytest.mark.parametrize("name", ["workflow", "figure", "table", "claims"])
@pytest.mark.parametrize(
    ("context", "tokens"),
    [
        (planted.context(), "2,000,000 training tokens"),
        (sweeps_planted.context(), "60,000 to 600,000 training tokens"),
        (sweeps_planted.debias_context(), "desk scale"),
    ],
    ids=["grid", "sweep", "debias"],
)
def test_captions_render_as_snakemake_renders_them(
    name: str, context: dict[str, Any], tokens: str
) -> None:
    snakemake = SimpleNamespace(
        params=SimpleNamespace(settings=SETTINGS, context=context),
        wildcards=SimpleNamespace(paper="ortsae", name="fig1"),
        config={"scale": "desk"},
    )
    template = (CAPTIONS / f"{name}.rst").read_text(encoding="utf-8")
    text = Environment(undefined=StrictUndefined).from_string(template).render(snakemake=snakemake)
    html = publish_parts(text, writer="html", settings_overrides={"halt_level": 2})["body"]
    assert "system-message" not in html
    if name in ("figure", "table"):
        assert "A title with d_sae_ and *stars*" in html
        assert "a|b|." in html
        assert tokens in html

"""How a circuit of latents is drawn."""

from __future__ import annotations

from pydantic import PositiveInt

from saeflow.settings import Settings


class CircuitStyle(Settings):
    """How much of a circuit is drawn; all of it is in the data beside the figure."""

    max_nodes: PositiveInt = 120
    """Nodes that are drawn, those of largest absolute effect: about as many as two columns hold."""
    max_edges: PositiveInt = 400
    """Edges that are drawn between them, those of largest absolute effect."""
    max_labels: PositiveInt = 80
    """Latents that are labelled, those of largest effect; a crowded row has room for fewer."""
    label_chars: PositiveInt = 9
    """Letters of a token that are shown."""
    label_tokens: PositiveInt = 3
    """Tokens that are shown, one below the other."""

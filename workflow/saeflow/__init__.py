"""saeflow: reproduce, compare and apply papers on sparse autoencoders."""

__version__ = "0.1.0"

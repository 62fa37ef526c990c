"""Debiasing a classifier by ablating latents: SHIFT on Bias in Bios."""

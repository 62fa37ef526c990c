"""Explain latents in words and score how well the words predict where they are active."""

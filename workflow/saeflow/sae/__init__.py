"""The autoencoder, its activation functions, objectives, trainer and formats."""

"""One file per evaluation: SAE and subject in, tidy rows out."""

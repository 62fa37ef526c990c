from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.sae.settings import SAESettings
    from saeflow.sae.timing import time_variants

    settings, grid = snakemake.params.settings, snakemake.params.settings["grid"]
    time_variants(
        {name: SAESettings.model_validate(s) for name, s in settings["variants"].items()},
        Path(snakemake.input[0]).parent,
        grid["site"],
        Path(snakemake.output[0]).parent,
        rounds=settings["timing"]["rounds"],
        steps=settings["timing"]["steps"],
        origin={
            "paper": snakemake.wildcards.paper,
            "subject": grid["subject"],
            "corpus": grid["corpus"],
            "split": "train",
            "selection": "all",
        },
    )

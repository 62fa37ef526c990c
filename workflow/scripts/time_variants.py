from saeflow.job import job

# One thread, as a training has; the rule reserves all cores so that nothing disturbs it.
with job(snakemake.log[0], threads=1):
    from pathlib import Path

    from saeflow.sae.settings import SAESettings
    from saeflow.sae.timing import time_variants

    settings = snakemake.params.settings
    time_variants(
        {name: SAESettings.model_validate(s) for name, s in settings["variants"].items()},
        Path(snakemake.input[0]).parent,
        settings["site"],
        Path(snakemake.output[0]).parent,
        rounds=settings["rounds"],
        steps=settings["steps"],
        origin=settings["origin"],
        d_sae=settings["d_sae"],
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

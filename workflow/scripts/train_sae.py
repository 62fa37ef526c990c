from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.sae.settings import SAESettings
    from saeflow.sae.trainer import train_sae

    settings = dict(snakemake.params.settings)
    minutes = snakemake.resources.checkpoint_seconds / 60
    settings["training"] = {**settings["training"], "checkpoint_minutes": minutes}
    train_sae(
        SAESettings.model_validate(settings),
        Path(snakemake.input.activations).parent,
        snakemake.wildcards.site,
        Path(snakemake.output[0]).parent,
        base=snakemake.params.base,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

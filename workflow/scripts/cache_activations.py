from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.activations.settings import ActivationSettings
    from saeflow.activations.write import cache_activations

    cache_activations(
        ActivationSettings.model_validate(snakemake.params.settings),
        Path(snakemake.input.subject).parent,
        Path(snakemake.input.tokens).parent,
        snakemake.wildcards.split,
        snakemake.params.sites,
        Path(snakemake.output[0]).parent,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

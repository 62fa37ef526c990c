from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.origin import arguments
    from saeflow.evaluation.settings import TokenMeasureSettings
    from saeflow.evaluation.token_measures import measure_tokens

    measure_tokens(
        TokenMeasureSettings.model_validate(snakemake.params.settings),
        {seed: Path(folder) for seed, folder in snakemake.params.saes.items()},
        split=snakemake.params.split,
        bases={seed: Path(path) for seed, path in snakemake.params.bases.items()},
        **arguments(snakemake, "subject", "tokens", "activations", "exclusion"),
    )

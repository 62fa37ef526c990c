from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.maps import map_series
    from saeflow.evaluation.origin import arguments
    from saeflow.evaluation.settings import MapSettings

    map_series(
        MapSettings.model_validate(snakemake.params.settings),
        {series: Path(folder) for series, folder in snakemake.params.saes.items()},
        activations={
            series: Path(folder) for series, folder in snakemake.params.activations.items()
        },
        split=snakemake.params.split,
        bases={series: Path(path) for series, path in snakemake.params.bases.items()},
        seed=snakemake.params.seed,
        **arguments(snakemake, "subject", "tokens", "exclusion"),
    )

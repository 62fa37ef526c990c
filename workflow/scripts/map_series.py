from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.maps import map_series
    from saeflow.evaluation.rows import Point
    from saeflow.evaluation.settings import MapSettings

    map_series(
        MapSettings.model_validate(snakemake.params.settings),
        {series: Path(folder) for series, folder in snakemake.params.saes.items()},
        subject=Path(snakemake.input.subject).parent,
        tokens=Path(snakemake.input.tokens).parent,
        activations={
            series: Path(folder) for series, folder in snakemake.params.activations.items()
        },
        exclusion=Path(snakemake.input.exclusion).parent,
        split=snakemake.params.split,
        bases={series: Path(path) for series, path in snakemake.params.bases.items()},
        point=Point(**snakemake.params.point),
        seed=snakemake.params.seed,
        out=Path(snakemake.output[0]).parent,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

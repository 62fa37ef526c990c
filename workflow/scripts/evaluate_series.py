from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.core import evaluate_series
    from saeflow.evaluation.origin import members_of
    from saeflow.evaluation.rows import Point
    from saeflow.evaluation.settings import SeriesSettings

    evaluate_series(
        SeriesSettings.model_validate(snakemake.params.settings),
        members_of(snakemake.params.saes),
        subject=Path(snakemake.input.subject).parent,
        tokens=Path(snakemake.input.tokens).parent,
        activations=Path(snakemake.input.activations).parent,
        exclusion=Path(snakemake.input.exclusion).parent,
        split=snakemake.params.split,
        point=Point(**snakemake.params.point),
        out=Path(snakemake.output[0]).parent,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.rows import Point
    from saeflow.evaluation.settings import TokenMeasureSettings
    from saeflow.evaluation.token_measures import measure_tokens

    measure_tokens(
        TokenMeasureSettings.model_validate(snakemake.params.settings),
        {seed: Path(folder) for seed, folder in snakemake.params.saes.items()},
        subject=Path(snakemake.input.subject).parent,
        tokens=Path(snakemake.input.tokens).parent,
        activations=Path(snakemake.input.activations).parent,
        exclusion=Path(snakemake.input.exclusion).parent,
        split=snakemake.params.split,
        bases={seed: Path(path) for seed, path in snakemake.params.bases.items()},
        point=Point(**snakemake.params.point),
        out=Path(snakemake.output[0]).parent,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

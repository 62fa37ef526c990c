from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.subjects.settings import WindowSettings
    from saeflow.subjects.tokenise import tokenise

    tokenise(
        WindowSettings.model_validate(snakemake.params.settings),
        Path(snakemake.input.subject).parent,
        Path(snakemake.input.corpus).parent,
        Path(snakemake.output[0]).parent,
    )

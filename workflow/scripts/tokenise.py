from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from pydantic import TypeAdapter

    from saeflow.subjects.settings import SubjectSettings
    from saeflow.subjects.tokenise import tokenise

    tokenise(
        TypeAdapter(SubjectSettings).validate_python(snakemake.params.settings),
        Path(snakemake.input.subject).parent,
        Path(snakemake.input.corpus).parent,
        Path(snakemake.output[0]).parent,
    )

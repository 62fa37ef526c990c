from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from pydantic import TypeAdapter

    from saeflow.subjects.materialise import make_subject
    from saeflow.subjects.settings import SubjectSettings

    make_subject(
        TypeAdapter(SubjectSettings).validate_python(snakemake.params.settings),
        {Path(m).parent.name: Path(m).parent for m in snakemake.input.get("corpora", [])},
        Path(snakemake.output[0]).parent,
        Path(snakemake.params.root),
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from pydantic import TypeAdapter

    from saeflow.corpora.documents import make_corpus
    from saeflow.corpora.settings import Corpus

    make_corpus(
        TypeAdapter(Corpus).validate_python(snakemake.params.settings),
        out=Path(snakemake.output[0]).parent,
        root=Path(snakemake.params.data_dir),
        parents={Path(m).parent.name: Path(m).parent for m in snakemake.input.parents},
    )

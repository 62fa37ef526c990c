from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.retrieval.settings import BM25, BM25_INDEX, Dense

    corpus, out = Path(snakemake.input[0]).parent, Path(snakemake.output[0]).parent
    if snakemake.wildcards.name == BM25_INDEX:
        from saeflow.retrieval.bm25 import index_bm25

        index_bm25(BM25.model_validate(snakemake.params.settings), corpus, out)
    else:
        from saeflow.retrieval.dense import index_dense

        index_dense(
            Dense.model_validate(snakemake.params.settings),
            corpus,
            out,
            root=Path(snakemake.params.data_dir),
            device="cuda" if snakemake.resources.gpu else "cpu",
        )

from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.retrieval.select import select_documents
    from saeflow.retrieval.settings import Selection

    settings = Selection.model_validate(snakemake.params.settings)
    general, domain = (Path(manifest).parent for manifest in snakemake.input.corpora)
    device = "cuda" if snakemake.resources.gpu else "cpu"
    rerank, rerank_inputs = None, None
    if settings.tracin is not None:
        from saeflow.retrieval.tracin import reranker

        sae, subject, activations, seeds = (Path(m).parent for m in snakemake.input.tracin)
        rerank_inputs = {"subject": subject, "activations": activations, "seed_tokens": seeds}
        rerank = reranker(
            settings.tracin,
            sae,
            **rerank_inputs,
            tokens=Path(snakemake.input.tokens[0]).parent,
            seed_split=settings.seeds.split,
            device=device,
        )
        rerank_inputs["sae"] = sae
    select_documents(
        settings,
        general=general,
        domain=domain,
        tokens=Path(snakemake.input.tokens[0]).parent,
        index=Path(snakemake.input.index[0]).parent if snakemake.input.index else None,
        rerank=rerank,
        rerank_inputs=rerank_inputs,
        out=Path(snakemake.output[0]).parent,
        root=Path(snakemake.params.data_dir),
        device=device,
    )

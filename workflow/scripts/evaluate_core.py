from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.core import evaluate_core
    from saeflow.evaluation.rows import Point
    from saeflow.evaluation.settings import CoreSettings

    seeds = snakemake.params.seeds
    evaluate_core(
        CoreSettings.model_validate(snakemake.params.settings),
        dict(zip(seeds, (Path(m).parent for m in snakemake.input.saes), strict=True)),
        bases={
            seed: Path(base)
            for seed, base in zip(seeds, snakemake.params.bases, strict=True)
            if base is not None
        },
        subject=Path(snakemake.input.subject).parent,
        tokens=Path(snakemake.input.tokens).parent,
        activations=Path(snakemake.input.activations).parent,
        point=Point(
            paper=snakemake.params.paper,
            subject=snakemake.wildcards.subject,
            site=snakemake.wildcards.site,
            corpus=snakemake.wildcards.corpus,
            selection="all",
            variant=snakemake.wildcards.variant,
            d_sae=int(snakemake.wildcards.d_sae),
            l0_target=int(snakemake.wildcards.l0),
        ),
        out=Path(snakemake.output[0]).parent,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

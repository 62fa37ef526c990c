from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.debias.run import run_debias
    from saeflow.debias.settings import DebiasSettings

    run_debias(
        DebiasSettings.model_validate(snakemake.params.settings),
        paper=snakemake.wildcards.paper,
        subject=Path(snakemake.input.subject).parent,
        corpus=Path(snakemake.input.corpus).parent,
        saes={
            kind: {site: Path(folder) for site, folder in folders.items()}
            for kind, folders in snakemake.params.saes.items()
        },
        d_sae=dict(snakemake.params.d_sae),
        seed=int(snakemake.wildcards.seed),
        out=Path(snakemake.output[0]).parent,
        root=Path(snakemake.params.data_dir),
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

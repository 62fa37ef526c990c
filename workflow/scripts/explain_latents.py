from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.autointerp.score import explain_latents
    from saeflow.autointerp.settings import Autointerp
    from saeflow.evaluation.origin import arguments

    explain_latents(
        Autointerp.model_validate(snakemake.params.settings),
        {seed: Path(folder) for seed, folder in snakemake.params.saes.items()},
        split=snakemake.params.split,
        bases={seed: Path(path) for seed, path in snakemake.params.bases.items()},
        root=Path(snakemake.params.data_dir),
        **arguments(snakemake, "subject", "tokens", "activations", "exclusion"),
    )

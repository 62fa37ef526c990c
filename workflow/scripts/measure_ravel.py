from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.origin import arguments, members_of
    from saeflow.evaluation.ravel import evaluate_ravel
    from saeflow.evaluation.ravel_settings import RavelSettings

    given = snakemake.params
    evaluate_ravel(
        RavelSettings.model_validate(given.settings),
        members_of(given.saes),
        data_dir=None if given.data_dir is None else Path(given.data_dir),
        **arguments(snakemake, "subject", "activations", "exclusion"),
    )

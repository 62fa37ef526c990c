from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from saeflow.evaluation.core import evaluate_series
    from saeflow.evaluation.origin import arguments, members_of
    from saeflow.evaluation.settings import SeriesSettings

    evaluate_series(
        SeriesSettings.model_validate(snakemake.params.settings),
        members_of(snakemake.params.saes),
        split=snakemake.params.split,
        **arguments(snakemake, "subject", "tokens", "activations", "exclusion"),
    )

from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.absorption import evaluate_absorption
    from saeflow.evaluation.absorption_settings import AbsorptionSettings
    from saeflow.evaluation.origin import arguments, members_of

    given, corpus = snakemake.params, snakemake.input.get("corpus")
    evaluate_absorption(
        AbsorptionSettings.model_validate(given.settings),
        members_of(given.saes),
        corpus=Path(corpus).parent if corpus else None,
        **arguments(snakemake, "subject", "activations", "exclusion"),
    )

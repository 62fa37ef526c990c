from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.absorption import evaluate_absorption
    from saeflow.evaluation.absorption_settings import AbsorptionSettings
    from saeflow.evaluation.origin import members_of
    from saeflow.evaluation.rows import Point

    given, corpus = snakemake.params, snakemake.input.get("corpus")
    evaluate_absorption(
        AbsorptionSettings.model_validate(given.settings),
        members_of(given.saes),
        subject=Path(snakemake.input.subject).parent,
        corpus=Path(corpus).parent if corpus else None,
        activations=Path(snakemake.input.activations).parent,
        exclusion=Path(snakemake.input.exclusion).parent,
        point=Point(**given.point),
        out=Path(snakemake.output[0]).parent,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.origin import members_of
    from saeflow.evaluation.ravel import evaluate_ravel
    from saeflow.evaluation.ravel_settings import RavelSettings
    from saeflow.evaluation.rows import Point

    given = snakemake.params
    evaluate_ravel(
        RavelSettings.model_validate(given.settings),
        members_of(given.saes),
        subject=Path(snakemake.input.subject).parent,
        activations=Path(snakemake.input.activations).parent,
        exclusion=Path(snakemake.input.exclusion).parent,
        data_dir=None if given.data_dir is None else Path(given.data_dir),
        point=Point(**given.point),
        out=Path(snakemake.output[0]).parent,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

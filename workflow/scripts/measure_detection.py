from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.autointerp.settings import Autointerp
    from saeflow.evaluation.detection import evaluate_detection
    from saeflow.evaluation.detection_settings import DetectionSettings
    from saeflow.evaluation.origin import members_of
    from saeflow.evaluation.rows import Point

    given = snakemake.params
    evaluate_detection(
        DetectionSettings.model_validate(given.settings),
        Autointerp.model_validate(given.autointerp),
        members_of(given.saes),
        subject=Path(snakemake.input.subject).parent,
        tokens=Path(snakemake.input.tokens).parent,
        activations=Path(snakemake.input.activations).parent,
        exclusion=Path(snakemake.input.exclusion).parent,
        split=given.split,
        data_dir=Path(given.data_dir),
        point=Point(**given.point),
        out=Path(snakemake.output[0]).parent,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

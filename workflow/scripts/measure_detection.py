from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.autointerp.settings import Autointerp
    from saeflow.evaluation.detection import evaluate_detection
    from saeflow.evaluation.detection_settings import DetectionSettings
    from saeflow.evaluation.origin import arguments, members_of

    given = snakemake.params
    evaluate_detection(
        DetectionSettings.model_validate(given.settings),
        Autointerp.model_validate(given.autointerp),
        members_of(given.saes),
        split=given.split,
        data_dir=Path(given.data_dir),
        **arguments(snakemake, "subject", "tokens", "activations", "exclusion"),
    )

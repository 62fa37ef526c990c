from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.concept_recall import measure_concept_recall
    from saeflow.evaluation.concept_recall_settings import ConceptRecallSettings
    from saeflow.evaluation.origin import arguments

    measure_concept_recall(
        ConceptRecallSettings.model_validate(snakemake.params.settings),
        {seed: Path(folder) for seed, folder in snakemake.params.saes.items()},
        bases={seed: Path(path) for seed, path in snakemake.params.bases.items()},
        **arguments(snakemake, "subject", "tokens", "corpus", "activations", "exclusion"),
    )

from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.concept_recall import measure_concept_recall
    from saeflow.evaluation.concept_recall_settings import ConceptRecallSettings
    from saeflow.evaluation.rows import Point

    measure_concept_recall(
        ConceptRecallSettings.model_validate(snakemake.params.settings),
        {seed: Path(folder) for seed, folder in snakemake.params.saes.items()},
        subject=Path(snakemake.input.subject).parent,
        tokens=Path(snakemake.input.tokens).parent,
        corpus=Path(snakemake.input.corpus).parent,
        activations=Path(snakemake.input.activations).parent,
        exclusion=Path(snakemake.input.exclusion).parent,
        bases={seed: Path(path) for seed, path in snakemake.params.bases.items()},
        point=Point(**snakemake.params.point),
        out=Path(snakemake.output[0]).parent,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

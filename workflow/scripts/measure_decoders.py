from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation import clustering, composition
    from saeflow.evaluation.clustering_settings import ClusteringSettings
    from saeflow.evaluation.composition_settings import CompositionSettings
    from saeflow.evaluation.origin import members_of
    from saeflow.evaluation.rows import Point

    settings, evaluate = {
        "composition": (CompositionSettings, composition.evaluate_composition),
        "clustering": (ClusteringSettings, clustering.evaluate_clustering),
    }[snakemake.wildcards.measure]
    given = snakemake.params
    evaluate(
        settings.model_validate(given.settings),
        members_of(given.saes),
        activations=Path(snakemake.input.activations).parent,
        split=given.split,
        point=Point(**given.point),
        out=Path(snakemake.output[0]).parent,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

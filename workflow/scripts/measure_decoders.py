from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from saeflow.evaluation import clustering, composition
    from saeflow.evaluation.clustering_settings import ClusteringSettings
    from saeflow.evaluation.composition_settings import CompositionSettings
    from saeflow.evaluation.origin import arguments, members_of

    settings, evaluate = {
        "composition": (CompositionSettings, composition.evaluate_composition),
        "clustering": (ClusteringSettings, clustering.evaluate_clustering),
    }[snakemake.wildcards.measure]
    given = snakemake.params
    evaluate(
        settings.model_validate(given.settings),
        members_of(given.saes),
        split=given.split,
        **arguments(snakemake, "activations"),
    )

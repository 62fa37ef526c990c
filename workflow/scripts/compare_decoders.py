from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from saeflow.evaluation import decomposition, uniqueness
    from saeflow.evaluation.decoder_pairs import pairs_of
    from saeflow.evaluation.decomposition_settings import DecompositionSettings
    from saeflow.evaluation.origin import arguments
    from saeflow.evaluation.uniqueness_settings import UniquenessSettings

    settings, evaluate = {
        "uniqueness": (UniquenessSettings, uniqueness.evaluate_uniqueness),
        "decomposition": (DecompositionSettings, decomposition.evaluate_decomposition),
    }[snakemake.wildcards.measure]
    given = snakemake.params
    evaluate(
        settings.model_validate(given.settings),
        pairs_of(given.saes, given.baseline),
        baseline=given.name,
        split=given.split,
        **arguments(snakemake, "activations"),
    )

from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from saeflow.evaluation.decoder_pairs import pairs_of
    from saeflow.evaluation.decomposed_latents import evaluate_decomposed_latents
    from saeflow.evaluation.decomposed_latents_settings import DecomposedLatentsSettings
    from saeflow.evaluation.origin import arguments

    given = snakemake.params
    evaluate_decomposed_latents(
        DecomposedLatentsSettings.model_validate(given.settings),
        pairs_of(given.saes, given.baseline),
        split=given.split,
        baseline=given.name,
        **arguments(snakemake, "decomposition", "subject", "tokens", "activations", "exclusion"),
    )

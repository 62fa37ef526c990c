from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.decoder_pairs import Pair
    from saeflow.evaluation.decomposed_latents import evaluate_decomposed_latents
    from saeflow.evaluation.decomposed_latents_settings import DecomposedLatentsSettings
    from saeflow.evaluation.origin import members_of
    from saeflow.evaluation.rows import Point

    given = snakemake.params
    sides = members_of(given.saes), members_of(given.baseline)
    evaluate_decomposed_latents(
        DecomposedLatentsSettings.model_validate(given.settings),
        [Pair(*pair) for pair in zip(*sides, strict=True)],
        decomposition=Path(snakemake.input.decomposition).parent,
        subject=Path(snakemake.input.subject).parent,
        tokens=Path(snakemake.input.tokens).parent,
        activations=Path(snakemake.input.activations).parent,
        exclusion=Path(snakemake.input.exclusion).parent,
        split=given.split,
        baseline=given.name,
        point=Point(**given.point),
        out=Path(snakemake.output[0]).parent,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

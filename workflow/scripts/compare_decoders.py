from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation import decomposition, uniqueness
    from saeflow.evaluation.decoder_pairs import Pair
    from saeflow.evaluation.decomposition_settings import DecompositionSettings
    from saeflow.evaluation.origin import members_of
    from saeflow.evaluation.rows import Point
    from saeflow.evaluation.uniqueness_settings import UniquenessSettings

    settings, evaluate = {
        "uniqueness": (UniquenessSettings, uniqueness.evaluate_uniqueness),
        "decomposition": (DecompositionSettings, decomposition.evaluate_decomposition),
    }[snakemake.wildcards.measure]
    given = snakemake.params
    sides = members_of(given.saes), members_of(given.baseline)
    evaluate(
        settings.model_validate(given.settings),
        [Pair(*pair) for pair in zip(*sides, strict=True)],
        baseline=given.name,
        activations=Path(snakemake.input.activations).parent,
        split=given.split,
        point=Point(**given.point),
        out=Path(snakemake.output[0]).parent,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

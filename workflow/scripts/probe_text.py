from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation import scr, sparse_probing, tpp
    from saeflow.evaluation.origin import arguments, members_of
    from saeflow.evaluation.scr_settings import ScrSettings
    from saeflow.evaluation.sparse_probing_settings import SparseProbingSettings
    from saeflow.evaluation.tpp_settings import TppSettings

    settings, evaluate = {
        "sparse_probing": (SparseProbingSettings, sparse_probing.evaluate_sparse_probing),
        "scr": (ScrSettings, scr.evaluate_scr),
        "tpp": (TppSettings, tpp.evaluate_tpp),
    }[snakemake.wildcards.measure]
    given = snakemake.params
    evaluate(
        settings.model_validate(given.settings),
        members_of(given.saes),
        corpora={name: Path(folder) for name, folder in given.corpora.items()},
        **arguments(snakemake, "subject", "activations", "exclusion"),
    )

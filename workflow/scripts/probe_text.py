from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation import scr, sparse_probing, tpp
    from saeflow.evaluation.origin import members_of
    from saeflow.evaluation.rows import Point
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
        subject=Path(snakemake.input.subject).parent,
        corpora={name: Path(folder) for name, folder in given.corpora.items()},
        activations=Path(snakemake.input.activations).parent,
        exclusion=Path(snakemake.input.exclusion).parent,
        point=Point(**given.point),
        out=Path(snakemake.output[0]).parent,
        device="cuda" if snakemake.resources.gpu else "cpu",
    )

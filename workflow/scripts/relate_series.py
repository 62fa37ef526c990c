from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.pareto import write_pareto
    from saeflow.evaluation.settings import ParetoSettings

    write_pareto(
        {name: Path(path) for name, path in snakemake.params.files.items()},
        snakemake.wildcards.series,
        snakemake.params.baseline,
        ParetoSettings.model_validate(snakemake.params.settings),
        Path(snakemake.output[0]).parent,
    )

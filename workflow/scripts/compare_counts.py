from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.evaluation.count_ratios import write_count_ratios
    from saeflow.evaluation.settings import CountRatioSettings

    write_count_ratios(
        CountRatioSettings.model_validate(snakemake.params.settings),
        {series: Path(folder) for series, folder in snakemake.params.folders.items()},
        snakemake.params.baseline,
        Path(snakemake.output[0]).parent,
    )

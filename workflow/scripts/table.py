from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.figures.tables import write_table

    name = "timing.parquet" if snakemake.params.settings["timing"] else "core.parquet"
    write_table(
        snakemake.params.settings,
        [Path(manifest).parent / name for manifest in snakemake.input],
        snakemake.params.context,
        Path(snakemake.output[0]).with_suffix(""),
    )

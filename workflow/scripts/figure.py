from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.figures.draw import draw_figure

    folders = [Path(manifest).parent for manifest in snakemake.input]
    draw_figure(
        snakemake.params.settings,
        [folder / "core.parquet" for folder in folders],
        [folder / "latents.parquet" for folder in folders],
        snakemake.params.context,
        Path(snakemake.output[0]).with_suffix(""),
    )

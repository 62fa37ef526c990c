from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    stem = Path(snakemake.output[0]).with_suffix("")
    given = snakemake.params
    if "grid" in given.settings:
        from saeflow.figures.draw import draw_figure

        folders = [Path(folder) for folder in given.folders["core"].values()]
        draw_figure(
            given.settings,
            [folder / "core.parquet" for folder in folders],
            [folder / "latents.parquet" for folder in folders],
            given.context,
            stem,
        )
    else:
        from saeflow.figures.draw_folders import draw_from_folders

        draw_from_folders(given.settings, given.folders, given.context, stem)

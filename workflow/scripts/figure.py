from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    stem = Path(snakemake.output[0]).with_suffix("")
    given = snakemake.params
    if "grid" in given.settings:
        from saeflow.figures.draw import draw_figure
        from saeflow.measures import grid_files

        draw_figure(
            given.settings,
            grid_files(given.folders),
            [Path(folder) / "latents.parquet" for folder in given.folders.get("core", {}).values()],
            given.context,
            stem,
        )
    else:
        from saeflow.figures.draw_folders import draw_from_folders

        draw_from_folders(given.settings, given.folders, given.context, stem)

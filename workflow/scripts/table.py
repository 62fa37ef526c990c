from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    stem = Path(snakemake.output[0]).with_suffix("")
    given = snakemake.params
    if "grid" in given.settings:
        from saeflow.figures.tables import write_table
        from saeflow.measures import grid_files

        write_table(given.settings, grid_files(given.folders), given.context, stem)
    else:
        from saeflow.figures.tables_folders import write_table_from_folders

        write_table_from_folders(given.settings, given.folders, given.context, stem)

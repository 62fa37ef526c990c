from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    stem = Path(snakemake.output[0]).with_suffix("")
    given = snakemake.params
    if "grid" in given.settings:
        from saeflow.figures.tables import write_table

        [measure] = given.folders
        folders = given.folders[measure].values()
        rows = [Path(folder) / f"{measure}.parquet" for folder in folders]
        write_table(given.settings, rows, given.context, stem)
    else:
        from saeflow.figures.tables_folders import write_table_from_folders

        write_table_from_folders(given.settings, given.folders, given.context, stem)

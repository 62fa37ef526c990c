from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.job import run_script

    for given in snakemake.params.jobs:
        run_script(Path(snakemake.scriptdir, snakemake.params.script), snakemake, given)

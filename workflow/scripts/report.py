from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.report.build import build_report

    build_report(snakemake.params.settings, Path(snakemake.output[0]))

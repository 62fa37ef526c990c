from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from saeflow.targets import Target, describe

    print(describe(Target(*target) for target in snakemake.params.targets))

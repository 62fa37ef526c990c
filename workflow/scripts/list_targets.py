from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from saeflow.config import Config
    from saeflow.targets import describe

    print(describe(Config.model_validate_json(snakemake.params.config)))

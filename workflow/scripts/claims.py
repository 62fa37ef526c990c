from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.claims import ClaimSettings, judge
    from saeflow.claims_table import write_claims
    from saeflow.evaluation.rows import read_rows

    judgements = []
    for name, grid in snakemake.params.grids.items():
        rows = read_rows(Path(path) for path in snakemake.params.rows[name])
        claims = [ClaimSettings.model_validate(c) for c in snakemake.params.claims[name]]
        judgements += judge(claims, rows, reference_l0=grid["reference_l0"])
    write_claims(
        judgements, Path(snakemake.output[0]).with_suffix(""), title=snakemake.params.title
    )

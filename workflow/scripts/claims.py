from saeflow.job import job

with job(snakemake.log[0], snakemake.threads):
    from pathlib import Path

    from saeflow.claims import ClaimSettings, judge
    from saeflow.claims_rows import claim_rows, judges_of
    from saeflow.claims_table import write_claims

    judgements, judges = [], {}
    for experiment in snakemake.params.experiments:
        paths = [Path(path) for path in experiment["rows"]]
        rows = claim_rows(paths)
        claims = [ClaimSettings.model_validate(claim) for claim in experiment["claims"]]
        judges |= judges_of(claims, paths)
        window = experiment["window"]
        judgements += judge(
            claims,
            rows,
            reference_l0=experiment["reference_l0"],
            l0s=tuple(experiment["l0s"]),
            window=window and (window["low"], window["high"]),
        )
    write_claims(
        judgements,
        Path(snakemake.output[0]).with_suffix(""),
        title=snakemake.params.title,
        judges=judges,
    )

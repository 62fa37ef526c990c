# Metrics -> verdicts on what the paper states.


rule claims:
    input:
        claims_input,
    output:
        P.claims("{paper}") + ".parquet",
        P.claims("{paper}") + ".comparisons.parquet",
        report(
            P.claims("{paper}") + ".md",
            category="{paper}",
            subcategory="claims",
            labels={"claims": "{paper}"},
            caption="../report/claims.rst",
        ),
    log:
        P.log("claims", "{paper}"),
    benchmark:
        P.benchmark("claims", "{paper}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        experiments=claim_experiments,
        title=claims_title,
        code=fingerprint(
            "saeflow.claims", "saeflow.claims_rows", "saeflow.claims_table"
        ),
    script:
        "../scripts/claims.py"

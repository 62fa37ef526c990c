# Metrics -> verdicts on what the paper states.


def claims_input(wildcards):
    section = CFG.paper(wildcards.paper)
    grids = [point for grid in section.grids.values() for point in CFG.points(grid)]
    timings = [manifest(P.timing(wildcards.paper, name)) for name in section.timings]
    return [manifest(P.core(point.path)) for point in grids] + timings


def claims_settings(wildcards):
    section = CFG.paper(wildcards.paper)
    return {
        "claims": [plain(claim) for claim in section.claims],
        "grids": {name: plain(grid) for name, grid in section.grids.items()},
    }


rule claims:
    input:
        claims_input,
    output:
        P.claims("{paper}") + ".parquet",
        report(
            P.claims("{paper}") + ".md",
            category="{paper}",
            subcategory="claims",
            labels={"claims": "{paper}"},
            caption="../report/claims.rst",
        ),
    params:
        settings=claims_settings,
        code=fingerprint("saeflow.claims"),
    log:
        P.log("claims", "{paper}"),
    benchmark:
        P.benchmark("claims", "{paper}")
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    script:
        "../scripts/claims.py"

# Metrics -> verdicts on what the paper states.


def grid_rows(paper, name):
    """Files with the rows of a grid: its points' core metrics and its timings."""
    section = CFG.paper(paper)
    timings = [t for t, timing in section.timings.items() if timing.grid == name]
    return [
        *(
            f"{P.core(point.path)}/core.parquet"
            for point in CFG.points(section.grids[name])
        ),
        *(f"{P.timing(paper, timing)}/timing.parquet" for timing in timings),
    ]


def claims_input(wildcards):
    grids = CFG.paper(wildcards.paper).grids
    rows = [row for name in grids for row in grid_rows(wildcards.paper, name)]
    return [manifest(Path(row).parent) for row in rows]


def claims_rows(wildcards):
    return {
        name: grid_rows(wildcards.paper, name)
        for name in CFG.paper(wildcards.paper).grids
    }


def claims_by_grid(wildcards):
    section = CFG.paper(wildcards.paper)
    return {
        name: [plain(claim) for claim in section.claims if claim.grid == name]
        for name in section.grids
    }


def claims_grids(wildcards):
    return {
        name: plain(grid) for name, grid in CFG.paper(wildcards.paper).grids.items()
    }


def claims_title(wildcards):
    return CFG.paper(wildcards.paper).title


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
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        claims=claims_by_grid,
        grids=claims_grids,
        rows=claims_rows,
        title=claims_title,
        code=fingerprint("saeflow.claims", "saeflow.claims_table"),
    script:
        "../scripts/claims.py"

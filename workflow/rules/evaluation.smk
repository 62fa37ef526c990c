# SAE + subject + held-out tokens -> tidy rows; all seeds of a point share one clean pass.


def point_saes(wildcards):
    point = POINT.format(**wildcards)
    return [manifest(P.sae(point, seed)) for seed in CFG.seeds]


def point_paper(wildcards):
    """The paper that a point belongs to: the first whose grids hold it."""
    path = POINT.format(**wildcards)
    for paper in CFG.papers:
        for grid in CFG.paper(paper).grids.values():
            if any(point.path == path for point in CFG.points(grid)):
                return paper
    raise WorkflowError(f"{path} is not a point of any grid of {', '.join(CFG.papers)}")


rule evaluate_core:
    input:
        saes=point_saes,
        subject=manifest(P.subject("{subject}")),
        tokens=manifest(P.tokens("{subject}", "{corpus}")),
        activations=manifest(P.activations("{subject}", "{corpus}", "train")),
    output:
        manifest(P.core(POINT)),
    log:
        P.log("evaluate_core", POINT),
    benchmark:
        P.benchmark("evaluate_core", POINT)
    threads: 1
    resources:
        mem_mb=2500,
        runtime=120,
        gpu=0,
    params:
        settings=plain(CFG.evaluation.core),
        seeds=list(CFG.seeds),
        paper=point_paper,
        code=fingerprint("saeflow.evaluation.core"),
    script:
        "../scripts/evaluate_core.py"

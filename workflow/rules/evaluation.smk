# SAE + subject + held-out tokens -> tidy rows; all seeds of a point share one clean pass.


def point_saes(wildcards):
    point = POINT.format(**wildcards)
    return [manifest(P.sae(point, seed)) for seed in CFG.seeds]


rule evaluate_core:
    input:
        saes=point_saes,
        subject=manifest(P.subject("{subject}")),
        tokens=manifest(P.tokens("{subject}", "{corpus}")),
        activations=manifest(P.activations("{subject}", "{corpus}", "train")),
    output:
        manifest(P.core(POINT)),
    params:
        settings=plain(CFG.evaluation.core),
        code=fingerprint("saeflow.evaluation.core"),
    log:
        P.log("evaluate_core", POINT),
    benchmark:
        P.benchmark("evaluate_core", POINT)
    threads: 1
    resources:
        mem_mb=2500,
        runtime=120,
        gpu=0,
    script:
        "../scripts/evaluate_core.py"

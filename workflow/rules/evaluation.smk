# SAE (with its frozen base if it has one) + subject + held-out tokens -> tidy rows; all seeds of a
# point share one clean pass.


rule evaluate_core:
    input:
        saes=point_saes,
        bases=point_base_inputs,
        subject=manifest(P.subject("{subject}")),
        tokens=manifest(P.tokens("{subject}", "{corpus}")),
        activations=manifest(P.activations("{subject}", "{corpus}", "train")),
    output:
        manifest(P.core(POINT)),
    log:
        P.log("evaluate_core", POINT),
    benchmark:
        P.benchmark("evaluate_core", POINT)
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=120,
        gpu=0,
    params:
        settings=plain(CFG.evaluation.core),
        seeds=list(CFG.seeds),
        bases=point_bases,
        paper=point_paper,
        code=core_code,
    script:
        "../scripts/evaluate_core.py"

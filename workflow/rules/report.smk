# Everything that was made -> one page; and the list of what can be made.


rule report:
    input:
        report_input(),
    output:
        P.report(),
    log:
        P.log("report", "report"),
    benchmark:
        P.benchmark("report", "report")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=report_settings,
        code=fingerprint("saeflow.report.build"),
    script:
        "../scripts/report.py"


rule list_targets:
    log:
        P.log("list_targets", "list_targets"),
    benchmark:
        P.benchmark("list_targets", "list_targets")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        targets=all_targets,
    script:
        "../scripts/list_targets.py"

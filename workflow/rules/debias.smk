# Labelled biographies + SAEs of many sites -> probe, circuit, SHIFT and its baselines, one seed a job.


rule debias:
    input:
        subject=debias_subject,
        corpus=debias_corpus,
        saes=debias_inputs,
        person=debias_person,
    output:
        manifest(P.debias("{paper}", "{seed}")),
    log:
        P.log("debias", "{paper}-seed{seed}"),
    benchmark:
        P.benchmark("debias", "{paper}-seed{seed}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=1440,
        gpu=0,
    params:
        settings=debias_settings,
        saes=debias_saes,
        d_sae=debias_widths,
        data_dir=str(CFG.data_dir or "."),
        code=debias_code,
    script:
        "../scripts/debias.py"

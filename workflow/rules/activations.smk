# Documents -> tokens -> activations of all sites in one forward pass.


rule tokenise:
    input:
        subject=manifest(P.subject("{subject}")),
        corpus=manifest(P.corpus("{corpus}")),
    output:
        manifest(P.tokens("{subject}", "{corpus}")),
    log:
        P.log("tokenise", "{subject}-{corpus}"),
    benchmark:
        P.benchmark("tokenise", "{subject}-{corpus}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        settings=window_settings,
        code=fingerprint("saeflow.subjects.tokenise"),
    script:
        "../scripts/tokenise.py"


rule cache_activations:
    input:
        subject=manifest(P.subject("{subject}")),
        tokens=manifest(P.tokens("{subject}", "{corpus}")),
    output:
        manifest(P.activations("{subject}", "{corpus}", "{split}")),
    log:
        P.log("cache_activations", "{subject}-{corpus}-{split}"),
    benchmark:
        P.benchmark("cache_activations", "{subject}-{corpus}-{split}")
    conda:
        "../../envs/cpu.yaml"
    threads: cache_threads
    resources:
        mem_mb=3000,
        runtime=240,
        gpu=0,
    params:
        settings=activation_settings,
        sites=subject_sites,
        code=fingerprint("saeflow.activations.write"),
    script:
        "../scripts/cache_activations.py"

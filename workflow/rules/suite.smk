# The SAEs of a variant or series, all L0 and seeds -> what their latents stand for.


rule measure_decoders:
    input:
        saes=series_inputs,
        bases=series_base_inputs,
        activations=series_activations,
    output:
        manifest(P.measure("{paper}", "{sweep}", "{measure}", "{series}", "{tested}")),
    log:
        P.log("measure_decoders", "{paper}-{sweep}-{measure}-{series}-{tested}"),
    benchmark:
        P.benchmark("measure_decoders", "{paper}-{sweep}-{measure}-{series}-{tested}")
    wildcard_constraints:
        measure="composition|clustering",
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=240,
        gpu=0,
    params:
        settings=measure_settings,
        saes=series_params,
        split=tested_split,
        point=series_point,
        code=measure_code,
    script:
        "../scripts/measure_decoders.py"


rule compare_decoders:
    input:
        saes=pair_inputs,
        bases=pair_base_inputs,
        activations=series_activations,
    output:
        manifest(P.measure("{paper}", "{sweep}", "{measure}", "{series}", "{tested}")),
    log:
        P.log("compare_decoders", "{paper}-{sweep}-{measure}-{series}-{tested}"),
    benchmark:
        P.benchmark("compare_decoders", "{paper}-{sweep}-{measure}-{series}-{tested}")
    wildcard_constraints:
        measure="uniqueness|decomposition",
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
        gpu=0,
    params:
        settings=measure_settings,
        saes=series_params,
        baseline=baseline_params,
        name=sweep_baseline,
        split=tested_split,
        point=series_point,
        code=measure_code,
    script:
        "../scripts/compare_decoders.py"


rule probe_text:
    input:
        saes=series_inputs,
        bases=series_base_inputs,
        subject=sweep_subject,
        corpora=labelled_inputs,
        activations=series_activations,
        exclusion=sweep_exclusion,
    output:
        manifest(P.measure("{paper}", "{sweep}", "{measure}", "{series}", "{tested}")),
    log:
        P.log("probe_text", "{paper}-{sweep}-{measure}-{series}-{tested}"),
    benchmark:
        P.benchmark("probe_text", "{paper}-{sweep}-{measure}-{series}-{tested}")
    wildcard_constraints:
        measure="sparse_probing|scr|tpp",
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=240,
        gpu=0,
    params:
        settings=measure_settings,
        saes=series_params,
        corpora=labelled_corpora,
        point=series_point,
        code=measure_code,
    script:
        "../scripts/probe_text.py"


rule measure_absorption:
    input:
        saes=series_inputs,
        bases=series_base_inputs,
        subject=sweep_subject,
        corpus=absorption_corpus,
        activations=series_activations,
        exclusion=sweep_exclusion,
    output:
        manifest(P.measure("{paper}", "{sweep}", "absorption", "{series}", "{tested}")),
    log:
        P.log("measure_absorption", "{paper}-{sweep}-{series}-{tested}"),
    benchmark:
        P.benchmark("measure_absorption", "{paper}-{sweep}-{series}-{tested}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=240,
        gpu=0,
    params:
        settings=plain(CFG.evaluation.absorption),
        saes=series_params,
        point=series_point,
        code=fingerprint("saeflow.evaluation.absorption"),
    script:
        "../scripts/measure_absorption.py"

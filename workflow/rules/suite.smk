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
        code=pair_code,
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
        code=absorption_code,
    script:
        "../scripts/measure_absorption.py"


rule measure_ravel:
    input:
        saes=series_inputs,
        bases=series_base_inputs,
        subject=sweep_subject,
        activations=series_activations,
        exclusion=sweep_exclusion,
        entities=ravel_files(),
    output:
        manifest(P.measure("{paper}", "{sweep}", "ravel", "{series}", "{tested}")),
    log:
        P.log("measure_ravel", "{paper}-{sweep}-{series}-{tested}"),
    benchmark:
        P.benchmark("measure_ravel", "{paper}-{sweep}-{series}-{tested}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=480,
        gpu=0,
    params:
        settings=plain(CFG.evaluation.ravel),
        saes=series_params,
        data_dir=ravel_root(),
        point=series_point,
        code=ravel_code,
    script:
        "../scripts/measure_ravel.py"


rule measure_detection:
    input:
        saes=series_inputs,
        bases=series_base_inputs,
        subject=sweep_subject,
        tokens=tested_tokens,
        activations=series_activations,
        exclusion=sweep_exclusion,
        judge=local_judge_files(),
    output:
        manifest(P.measure("{paper}", "{sweep}", "detection", "{series}", "{tested}")),
    log:
        P.log("measure_detection", "{paper}-{sweep}-{series}-{tested}"),
    benchmark:
        P.benchmark("measure_detection", "{paper}-{sweep}-{series}-{tested}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=1440,
        gpu=0,
    params:
        settings=plain(CFG.evaluation.detection),
        autointerp=asking_settings(),
        data_dir=judge_root(),
        saes=series_params,
        split=tested_split,
        point=series_point,
        code=detection_code,
    script:
        "../scripts/measure_detection.py"


rule show_sums:
    input:
        saes=pair_inputs,
        bases=pair_base_inputs,
        decomposition=decomposition_input,
        subject=sweep_subject,
        tokens=tested_tokens,
        activations=series_activations,
        exclusion=sweep_exclusion,
    output:
        manifest(
            P.measure(
                "{paper}", "{sweep}", "decomposed_latents", "{series}", "{tested}"
            )
        ),
    log:
        P.log("show_sums", "{paper}-{sweep}-{series}-{tested}"),
    benchmark:
        P.benchmark("show_sums", "{paper}-{sweep}-{series}-{tested}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=120,
        gpu=0,
    params:
        settings=plain(CFG.evaluation.decomposed_latents),
        saes=series_params,
        baseline=baseline_params,
        name=sweep_baseline,
        split=tested_split,
        point=series_point,
        code=sums_code,
    script:
        "../scripts/show_sums.py"

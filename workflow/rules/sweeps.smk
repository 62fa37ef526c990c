# Series of SAEs -> what is measured of them on the same text.


rule evaluate_series:
    input:
        saes=series_inputs,
        bases=series_base_inputs,
        subject=sweep_subject,
        tokens=tested_tokens,
        activations=series_activations,
        exclusion=sweep_exclusion,
    output:
        manifest(P.measure("{paper}", "{sweep}", "core", "{series}", "{tested}")),
    log:
        P.log("evaluate_series", "{paper}-{sweep}-{series}-{tested}"),
    benchmark:
        P.benchmark("evaluate_series", "{paper}-{sweep}-{series}-{tested}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=240,
        gpu=0,
    params:
        settings=plain(CFG.evaluation.series),
        saes=series_params,
        split=tested_split,
        point=series_point,
        code=series_core_code,
    script:
        "../scripts/evaluate_series.py"


rule relate_series:
    input:
        pareto_inputs,
    output:
        manifest(P.measure("{paper}", "{sweep}", "pareto", "{series}", "{tested}")),
    log:
        P.log("relate_series", "{paper}-{sweep}-{series}-{tested}"),
    benchmark:
        P.benchmark("relate_series", "{paper}-{sweep}-{series}-{tested}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=plain(CFG.evaluation.pareto),
        files=pareto_files,
        baseline=sweep_baseline,
        code=fingerprint("saeflow.evaluation.pareto"),
    script:
        "../scripts/relate_series.py"


rule measure_tokens:
    input:
        saes=reference_inputs,
        bases=reference_base_inputs,
        subject=sweep_subject,
        tokens=tested_tokens,
        activations=series_activations,
        exclusion=sweep_exclusion,
    output:
        manifest(P.measure("{paper}", "{sweep}", "tokens", "{series}", "{tested}")),
    log:
        P.log("measure_tokens", "{paper}-{sweep}-{series}-{tested}"),
    benchmark:
        P.benchmark("measure_tokens", "{paper}-{sweep}-{series}-{tested}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=120,
        gpu=0,
    params:
        settings=plain(CFG.evaluation.tokens),
        saes=reference_params,
        bases=reference_bases,
        split=tested_split,
        point=series_point,
        code=series_tokens_code,
    script:
        "../scripts/measure_tokens.py"


rule compare_counts:
    input:
        counts_inputs,
    output:
        manifest(P.measure("{paper}", "{sweep}", "ratios", "{series}", "{tested}")),
    log:
        P.log("compare_counts", "{paper}-{sweep}-{series}-{tested}"),
    benchmark:
        P.benchmark("compare_counts", "{paper}-{sweep}-{series}-{tested}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=plain(CFG.evaluation.counts),
        folders=counts_folders,
        baseline=sweep_baseline,
        code=fingerprint("saeflow.evaluation.count_ratios"),
    script:
        "../scripts/compare_counts.py"


rule map_series:
    input:
        saes=map_inputs,
        bases=map_base_inputs,
        subject=sweep_subject,
        tokens=tested_tokens,
        activations=map_caches,
        exclusion=sweep_exclusion,
    output:
        manifest(P.shared("{paper}", "{sweep}", "map", "{tested}")),
    log:
        P.log("map_series", "{paper}-{sweep}-{tested}"),
    benchmark:
        P.benchmark("map_series", "{paper}-{sweep}-{tested}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=0,
    params:
        settings=plain(CFG.evaluation.map),
        saes=map_saes,
        bases=map_bases,
        activations=map_activations,
        seed=CFG.seeds[0],
        split=tested_split,
        point=map_point,
        code=fingerprint("saeflow.evaluation.maps"),
    script:
        "../scripts/map_series.py"


rule explain_latents:
    input:
        saes=reference_inputs,
        bases=reference_base_inputs,
        subject=sweep_subject,
        tokens=tested_tokens,
        activations=series_activations,
        exclusion=sweep_exclusion,
        judge=local_judge_files(),
    output:
        manifest(P.measure("{paper}", "{sweep}", "explained", "{series}", "{tested}")),
    log:
        P.log("explain_latents", "{paper}-{sweep}-{series}-{tested}"),
    benchmark:
        P.benchmark("explain_latents", "{paper}-{sweep}-{series}-{tested}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=1440,
        gpu=0,
    params:
        settings=plain(CFG.autointerp),
        data_dir=judge_root(),
        saes=reference_params,
        bases=reference_bases,
        split=tested_split,
        point=series_point,
        code=judge_code(CFG.autointerp.judge.kind),
    script:
        "../scripts/explain_latents.py"


rule recall_concepts:
    input:
        saes=reference_inputs,
        bases=reference_base_inputs,
        subject=sweep_subject,
        tokens=tested_tokens,
        corpus=tested_corpus,
        activations=series_activations,
        exclusion=sweep_exclusion,
    output:
        manifest(P.measure("{paper}", "{sweep}", "concepts", "{series}", "{tested}")),
    log:
        P.log("recall_concepts", "{paper}-{sweep}-{series}-{tested}"),
    benchmark:
        P.benchmark("recall_concepts", "{paper}-{sweep}-{series}-{tested}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=120,
        gpu=0,
    params:
        settings=plain(CFG.evaluation.concepts),
        saes=reference_params,
        bases=reference_bases,
        point=series_point,
        code=fingerprint("saeflow.evaluation.concept_recall"),
    script:
        "../scripts/recall_concepts.py"

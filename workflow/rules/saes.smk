# Activations -> SAEs, one job each; and their training times side by side.


rule train_sae:
    input:
        activations=manifest(P.activations("{subject}", "{corpus}", "train")),
        base=base_inputs,
    output:
        manifest(P.sae(POINT, "{seed}")),
    log:
        P.log("train_sae", f"{POINT}-seed{{seed}}"),
    benchmark:
        P.benchmark("train_sae", f"{POINT}-seed{{seed}}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=720,
        gpu=0,
        # A resource and no parameter: how often a state is saved changes no result.
        checkpoint_seconds=round(60 * CFG.training.checkpoint_minutes),
    params:
        settings=sae_settings,
        base=base_path,
        code=fingerprint("saeflow.sae.trainer"),
    script:
        "../scripts/train_sae.py"


rule time_variants:
    input:
        timing_activations,
    output:
        manifest(P.timing("{paper}", "{name}")),
    log:
        P.log("time_variants", "{paper}-{name}"),
    benchmark:
        P.benchmark("time_variants", "{paper}-{name}")
    # All cores, so that no other job disturbs the measurement.
    conda:
        "../../envs/cpu.yaml"
    threads: max(1, workflow.cores or 1)
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=0,
    params:
        settings=timing_settings,
        code=fingerprint("saeflow.sae.timing"),
    script:
        "../scripts/time_variants.py"

# Activations -> SAEs, one job each; and their training times side by side.


def sae_settings(wildcards):
    return plain(
        CFG.sae(
            wildcards.variant,
            int(wildcards.d_sae),
            int(wildcards.l0),
            int(wildcards.seed),
        )
    )


def timing_of(wildcards):
    return CFG.paper(wildcards.paper).timings[wildcards.name]


def timing_grid(wildcards):
    return CFG.paper(wildcards.paper).grids[timing_of(wildcards).grid]


def timing_activations(wildcards):
    grid = timing_grid(wildcards)
    return manifest(P.activations(grid.subject, grid.corpus, "train"))


def timing_settings(wildcards):
    timing, grid = timing_of(wildcards), timing_grid(wildcards)
    seed = CFG.seeds[0]
    return {
        "timing": plain(timing),
        "grid": plain(grid),
        "variants": {
            name: plain(CFG.sae(name, grid.d_sae, grid.reference_l0, seed))
            for name in timing.variants
        },
    }


rule train_sae:
    input:
        manifest(P.activations("{subject}", "{corpus}", "train")),
    output:
        manifest(P.sae(POINT, "{seed}")),
    log:
        P.log("train_sae", f"{POINT}-seed{{seed}}"),
    benchmark:
        P.benchmark("train_sae", f"{POINT}-seed{{seed}}")
    threads: 1
    resources:
        mem_mb=1500,
        runtime=720,
        gpu=0,
    params:
        settings=sae_settings,
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

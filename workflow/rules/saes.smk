# Activations -> SAEs, one job each or several in one; and their training times side by side.


rule train_sae:
    input:
        activations=manifest(P.activations("{subject}", "{corpus}", "train")),
        base=needed_inputs,
    output:
        # Not removed beforehand: the job leaves alone an SAE that is finished already.
        update(manifest(P.sae(POINT, "{seed}"))),
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
        # Resources and no parameters: they change no result, but for rounding. Memory is that of
        # one process.
        processes=1,
        checkpoint_seconds=round(60 * CFG.training.checkpoint_minutes),
    params:
        settings=sae_settings,
        site="{site}",
        base=base_path,
        init=init_path,
        code=sae_code,
    script:
        "../scripts/train_sae.py"


reserve_for_processes()


for number, saes in enumerate(sae_jobs()):

    rule:
        name:
            f"train_saes_{number}"
        input:
            activations=manifest(
                P.activations(saes[0].subject, saes[0].corpus, "train")
            ),
            base=[path for sae in saes for path in needed_inputs(sae)],
        output:
            [update(manifest(P.sae(sae.path, sae.seed))) for sae in saes],
        log:
            P.log("train_saes", str(number)),
        benchmark:
            P.benchmark("train_saes", str(number))
        conda:
            "../../envs/cpu.yaml"
        threads: 1
        params:
            site=[sae.site for sae in saes],
            settings=[sae_settings(sae) for sae in saes],
            base=[base_path(sae) for sae in saes],
            init=[init_path(sae) for sae in saes],
            code=[sae_code(sae) for sae in saes],
        script:
            "../scripts/train_sae.py"

    # The rule for any one SAE remains, for those of no grid.
    set_as_train_sae(f"train_saes_{number}", saes)


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

# The models that are interpreted: trained here, or taken from where they are.


rule pretrain_subject:
    input:
        corpora=mixture_corpora,
    output:
        manifest(P.subject("{subject}")),
    log:
        P.log("pretrain_subject", "{subject}"),
    benchmark:
        P.benchmark("pretrain_subject", "{subject}")
    wildcard_constraints:
        subject=one_of(PRETRAINED),
    conda:
        "../../envs/cpu.yaml"
    threads: max(1, workflow.cores or 1)
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=0,
    params:
        settings=subject_settings,
        root=subject_paths,
        code=subject_code,
    script:
        "../scripts/subject.py"


rule load_subject:
    input:
        loaded_files,
    output:
        manifest(P.subject("{subject}")),
    log:
        P.log("load_subject", "{subject}"),
    benchmark:
        P.benchmark("load_subject", "{subject}")
    wildcard_constraints:
        subject=one_of([name for name in CFG.subjects if name not in PRETRAINED]),
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=0,
    params:
        settings=subject_settings,
        root=subject_paths,
        code=subject_code,
    script:
        "../scripts/subject.py"

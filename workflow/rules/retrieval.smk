# General corpus + seeds of a domain -> the documents selected for it, a corpus of their own.


rule index_documents:
    input:
        manifest(P.corpus("{corpus}")),
        index_files,
    output:
        manifest(P.index("{corpus}", "{name}")),
    log:
        P.log("index_documents", "{corpus}-{name}"),
    benchmark:
        P.benchmark("index_documents", "{corpus}-{name}")
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=6000,
        runtime=1440,
        gpu=0,
    params:
        settings=index_settings,
        data_dir=str(CFG.data_dir or "."),
        code=index_code,
    script:
        "../scripts/index_documents.py"


rule select_documents:
    input:
        corpora=selection_corpora,
        tokens=selection_tokens,
        index=selection_index,
        tracin=tracin_inputs,
    output:
        manifest(P.corpus("{corpus}")),
    log:
        P.log("select_documents", "{corpus}"),
    benchmark:
        P.benchmark("select_documents", "{corpus}")
    wildcard_constraints:
        corpus=one_of(SELECTIONS),
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=0,
    params:
        settings=selection_settings,
        data_dir=str(CFG.data_dir or "."),
        code=selection_code,
    script:
        "../scripts/select_documents.py"

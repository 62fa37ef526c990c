# Sources -> documents.


rule corpus:
    input:
        files=corpus_input,
        parents=parent_corpora,
    output:
        manifest(P.corpus("{corpus}")),
    log:
        P.log("corpus", "{corpus}"),
    benchmark:
        P.benchmark("corpus", "{corpus}")
    wildcard_constraints:
        corpus=one_of([name for name in CFG.corpora if name not in SELECTIONS]),
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=corpus_settings,
        data_dir=str(CFG.data_dir or "."),
        versions=corpus_versions,
        code=corpus_code,
    script:
        "../scripts/corpus.py"

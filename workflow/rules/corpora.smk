# Sources -> documents.


def corpus_settings(wildcards):
    return plain(CFG.corpora[wildcards.corpus])


def corpus_code(wildcards):
    source = CFG.corpora[wildcards.corpus].source.replace("-", "_")
    modules = ["documents", source]
    if source in ("biographies", "facts"):
        modules.append("generated")
    return fingerprint(*(f"saeflow.corpora.{module}" for module in modules))


def corpus_input(wildcards):
    return corpus_files(CFG, wildcards.corpus)


rule corpus:
    input:
        corpus_input,
    output:
        manifest(P.corpus("{corpus}")),
    log:
        P.log("corpus", "{corpus}"),
    benchmark:
        P.benchmark("corpus", "{corpus}")
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        settings=corpus_settings,
        data_dir=str(CFG.data_dir or "."),
        code=corpus_code,
    script:
        "../scripts/corpus.py"

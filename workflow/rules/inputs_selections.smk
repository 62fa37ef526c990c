# Inputs and parameters of indexes and selections, looked up by their wildcards.

SELECTIONS = [name for name, c in CFG.corpora.items() if c.source == "selection"]


def selection_of(wildcards):
    return CFG.corpora[wildcards.corpus]


def index_settings(wildcards):
    if wildcards.name == BM25_INDEX:
        return plain(CFG.retrieval.bm25)
    return plain(CFG.retrieval.dense[wildcards.name])


def index_files(wildcards):
    """The files of the model that makes the vectors, where it lies in a folder."""
    if wildcards.name == BM25_INDEX:
        return []
    encoder = CFG.retrieval.dense[wildcards.name].encoder
    return list(map(str, encoder_files(encoder, CFG.data_dir or Path())))


def index_code(wildcards):
    if wildcards.name == BM25_INDEX:
        return fingerprint("saeflow.retrieval.bm25")
    kind = CFG.retrieval.dense[wildcards.name].encoder.kind
    return fingerprint("saeflow.retrieval.dense", f"saeflow.retrieval.{kind}")


def selection_settings(wildcards):
    return plain(selection_of(wildcards))


def selection_index(wildcards):
    """The index that is searched, if the method retrieves."""
    selection = selection_of(wildcards)
    return (
        [manifest(P.index(selection.corpus, selection.index))]
        if selection.retrieves
        else []
    )


def selection_corpora(wildcards):
    selection = selection_of(wildcards)
    return [
        manifest(P.corpus(corpus)) for corpus in (selection.corpus, selection.domain)
    ]


def selection_tokens(wildcards):
    selection = selection_of(wildcards)
    return [manifest(P.tokens(selection.subject, selection.drawn_from))]


def tracin_sae(wildcards):
    """Folder of the SAE whose gradients rerank, or None."""
    selection = selection_of(wildcards)
    if selection.tracin is None:
        return None
    where = {"subject": selection.subject, "site": selection.tracin.site}
    sae = plain(selection.tracin.sae)
    return P.sae(POINT.format(**where, **sae), sae["seed"])


def tracin_inputs(wildcards):
    """The SAE, its subject, the cache whose rule of exclusion holds, and the seeds' tokens."""
    selection, sae = selection_of(wildcards), tracin_sae(wildcards)
    if sae is None:
        return []
    cache = P.activations(selection.subject, selection.tracin.sae.corpus, "train")
    seeds = P.tokens(selection.subject, selection.domain)
    return [
        manifest(folder) for folder in (sae, P.subject(selection.subject), cache, seeds)
    ]


def selection_code(wildcards):
    reranks = selection_of(wildcards).tracin is not None
    return fingerprint(
        "saeflow.retrieval.select", *(["saeflow.retrieval.tracin"] if reranks else [])
    )

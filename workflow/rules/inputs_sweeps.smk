# Inputs and parameters of the rules that compare series, looked up by their wildcards.


def sweep_of(wildcards):
    """A sweep, or a grid: its variants are series, all trained on its corpus and measured on it."""
    section = CFG.paper(wildcards.paper)
    return {**section.grids, **section.sweeps}[wildcards.sweep]


def tested_of(wildcards):
    return sweep_of(wildcards).tested[wildcards.tested]


def tested_tokens(wildcards):
    return manifest(P.tokens(sweep_of(wildcards).subject, tested_of(wildcards).corpus))


def sweep_subject(wildcards):
    return manifest(P.subject(sweep_of(wildcards).subject))


def cache_of(sweep, series):
    """Folder of the cache that a series was trained on."""
    return P.activations(sweep.subject, sweep.series[series].corpus, "train")


def series_activations(wildcards):
    return manifest(cache_of(sweep_of(wildcards), wildcards.series))


def series_saes(wildcards, l0s=None):
    """The SAEs of a series, one a seed and L0: what they are and where they are."""
    return [
        SimpleNamespace(**plain(point), seed=seed, folder=P.sae(point.path, seed))
        for point in sweep_of(wildcards).points(wildcards.series)
        for seed in CFG.seeds
        if l0s is None or point.l0 in l0s
    ]


def series_inputs(wildcards):
    return [manifest(sae.folder) for sae in series_saes(wildcards)]


def series_base_inputs(wildcards):
    return bases_behind(series_saes(wildcards))


def bases_behind(saes):
    """The files of the frozen SAEs of residual ones; none for others."""
    return list(dict.fromkeys(path for sae in saes for path in base_inputs(sae)))


def series_params(wildcards):
    return [
        {"l0": sae.l0, "seed": sae.seed, "folder": sae.folder, "base": base_path(sae)}
        for sae in series_saes(wildcards)
    ]


def reference_saes(wildcards):
    """The SAEs of a series at the reference L0."""
    return series_saes(wildcards, [sweep_of(wildcards).reference_l0])


def reference_inputs(wildcards):
    return [manifest(sae.folder) for sae in reference_saes(wildcards)]


def reference_params(wildcards):
    return {sae.seed: sae.folder for sae in reference_saes(wildcards)}


def reference_base_inputs(wildcards):
    return bases_behind(reference_saes(wildcards))


def reference_bases(wildcards):
    """Where the frozen SAEs of residual ones are, by seed."""
    found = {sae.seed: base_path(sae) for sae in reference_saes(wildcards)}
    return {seed: path for seed, path in found.items() if path is not None}


def series_core_code(wildcards):
    return fingerprint("saeflow.evaluation.core", *series_importers(wildcards))


def series_tokens_code(wildcards):
    return fingerprint(
        "saeflow.evaluation.token_measures", *series_importers(wildcards)
    )


def series_importers(wildcards):
    return importers(sweep_of(wildcards).series[wildcards.series].variant)


def series_point(wildcards):
    """What the rows of a series say of their origin; the L0 is the reference's where it is one."""
    sweep = sweep_of(wildcards)
    return {
        "paper": wildcards.paper,
        "subject": sweep.subject,
        "site": sweep.site,
        "corpus": tested_of(wildcards).corpus,
        "selection": sweep.selection(wildcards.series),
        "variant": wildcards.series,
        "d_sae": sweep.d_sae,
        "l0_target": sweep.reference_l0,
    }


def tested_split(wildcards):
    return tested_of(wildcards).split


def sweep_exclusion(wildcards):
    """The cache that decides which rows count, the baseline's, for all series alike."""
    sweep = sweep_of(wildcards)
    return manifest(cache_of(sweep, sweep.baseline))


def compared(wildcards, measure):
    """Folders of a measure of a series and of the baseline, on one text."""
    where = (wildcards.paper, wildcards.sweep, measure)
    names = dict.fromkeys((wildcards.series, sweep_baseline(wildcards)))
    return {name: P.measure(*where, name, wildcards.tested) for name in names}


def pareto_inputs(wildcards):
    return [manifest(folder) for folder in compared(wildcards, "core").values()]


def pareto_files(wildcards):
    return {
        name: f"{folder}/core.parquet"
        for name, folder in compared(wildcards, "core").items()
    }


def counts_inputs(wildcards):
    return [manifest(folder) for folder in counts_folders(wildcards).values()]


def counts_folders(wildcards):
    return compared(wildcards, "tokens")


def mapped(wildcards):
    """The first seed's SAE of every series of a sweep, at the reference L0."""
    sweep = sweep_of(wildcards)
    return {
        series: SimpleNamespace(
            **plain(point), seed=CFG.seeds[0], folder=P.sae(point.path, CFG.seeds[0])
        )
        for series in sweep.series
        for point in sweep.points(series)
        if point.l0 == sweep.reference_l0
    }


def map_saes(wildcards):
    return {series: sae.folder for series, sae in mapped(wildcards).items()}


def map_inputs(wildcards):
    return [manifest(folder) for folder in map_saes(wildcards).values()]


def map_base_inputs(wildcards):
    return bases_behind(mapped(wildcards).values())


def map_bases(wildcards):
    """Where the frozen SAEs of residual ones are, by series."""
    found = {series: base_path(sae) for series, sae in mapped(wildcards).items()}
    return {series: path for series, path in found.items() if path is not None}


def map_activations(wildcards):
    sweep = sweep_of(wildcards)
    return {series: cache_of(sweep, series) for series in sweep.series}


def map_caches(wildcards):
    return [manifest(folder) for folder in map_activations(wildcards).values()]


def map_point(wildcards):
    baseline = sweep_of(wildcards).baseline
    here = {key: getattr(wildcards, key) for key in ("paper", "sweep", "tested")}
    return series_point(SimpleNamespace(**here, series=baseline))


def sweep_baseline(wildcards):
    return sweep_of(wildcards).baseline


# The evaluation suite


def measure_settings(wildcards):
    return plain(getattr(CFG.evaluation, wildcards.measure))


def measure_code(wildcards):
    return suite_code(wildcards.measure, wildcards)


def absorption_code(wildcards):
    return suite_code("absorption", wildcards)


def ravel_code(wildcards):
    return suite_code("ravel", wildcards)


def suite_code(measure, wildcards):
    return fingerprint(f"saeflow.evaluation.{measure}", *series_importers(wildcards))


def pair_code(wildcards):
    return suite_pair_code(wildcards.measure, wildcards)


def sums_code(wildcards):
    return suite_pair_code("decomposed_latents", wildcards)


def suite_pair_code(measure, wildcards):
    """The code of a measure against the baseline, whose SAEs may be read as well."""
    both = series_importers(wildcards) + series_importers(of_baseline(wildcards))
    return fingerprint(f"saeflow.evaluation.{measure}", *dict.fromkeys(both))


def of_baseline(wildcards):
    """The wildcards of the series that the others are compared with."""
    return SimpleNamespace(
        paper=wildcards.paper, sweep=wildcards.sweep, series=sweep_baseline(wildcards)
    )


def baseline_params(wildcards):
    return series_params(of_baseline(wildcards))


def pair_inputs(wildcards):
    return [*series_inputs(wildcards), *series_inputs(of_baseline(wildcards))]


def pair_base_inputs(wildcards):
    both = [*series_saes(wildcards), *series_saes(of_baseline(wildcards))]
    return bases_behind(both)


def labelled_corpora(wildcards):
    """Folders of the corpora whose documents have classes, by name."""
    settings = getattr(CFG.evaluation, wildcards.measure)
    chosen = getattr(settings, "datasets", None) or settings.pairs
    return {c.corpus: P.corpus(c.corpus) for c in chosen.values()}


def labelled_inputs(wildcards):
    return list(map(manifest, labelled_corpora(wildcards).values()))


def absorption_corpus(wildcards):
    """The corpus whose words or packages are looked at, if any."""
    return tested_corpus(wildcards) if CFG.evaluation.absorption.reads_documents else []


def ravel_files():
    """The user's file of entities, if there is one."""
    file = CFG.evaluation.ravel.file
    return [] if file is None else [str((CFG.data_dir or Path()) / file)]


def ravel_root():
    """What that file is relative to; results do not depend on it where there is none."""
    return str(CFG.data_dir or ".") if ravel_files() else None


def detection_code(wildcards):
    return judge_code(
        CFG.autointerp.judge.kind,
        "saeflow.evaluation.detection",
        *series_importers(wildcards),
    )


def asking_settings():
    """Who judges, and how many sequences a prompt has: what detection takes of autointerp."""
    settings = plain(CFG.autointerp)
    return {key: settings[key] for key in ("judge", "examples_per_prompt")}


def decomposition_input(wildcards):
    where = (wildcards.paper, wildcards.sweep, "decomposition")
    return manifest(P.measure(*where, wildcards.series, wildcards.tested))


# Selections

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


def tested_corpus(wildcards):
    return manifest(P.corpus(tested_of(wildcards).corpus))


def local_judge_files():
    """The files of the model that judges, where it lies in a folder."""
    return list(map(str, judge_files(CFG.autointerp.judge, CFG.data_dir or Path())))


def judge_root():
    """What a local judge's path is relative to; another judge's answers do not depend on it."""
    return str(CFG.data_dir or ".") if local_judge_files() else "."


def site_groups():
    """The SAEs of all sites of a debiasing experiment, in lists of one corpus, variant and seed."""
    for paper in CFG.papers:
        if (debias := CFG.paper(paper).debias) is None:
            continue
        for points, seed in product(debias.points().values(), CFG.seeds):
            yield [
                SimpleNamespace(**plain(point), path=point.path, seed=str(seed))
                for point in points
            ]


# Debiasing


def debias_of(wildcards):
    return CFG.paper(wildcards.paper).debias


def debias_subject(wildcards):
    return manifest(P.subject(debias_of(wildcards).subject))


def debias_corpus(wildcards):
    return manifest(P.corpus(debias_of(wildcards).corpus))


def debias_settings(wildcards):
    return plain(debias_of(wildcards).protocol)


def debias_saes(wildcards):
    """Folders of the SAEs of one seed, by kind and site."""
    debias = debias_of(wildcards)
    trained, sites = debias.points(), debias.protocol.sites
    return {
        kind: (
            {
                site: P.sae(point.path, wildcards.seed)
                for site, point in zip(sites, trained[kind], strict=True)
            }
            if kind in trained
            else {
                site: str(base_folder(CFG, saes, module))
                for site, module in sites.items()
            }
        )
        for kind, saes in debias.saes.items()
    }


def debias_widths(wildcards):
    """Latents of an SAE of each kind, as the config has them."""
    return {kind: saes.d_sae for kind, saes in debias_of(wildcards).saes.items()}


def debias_inputs(wildcards):
    """The files of the SAEs: manifests of those that are trained, and what is in folders."""
    debias = debias_of(wildcards)
    folders, files = debias_saes(wildcards), []
    for kind, saes in debias.saes.items():
        if saes.source == "trained":
            files += [manifest(folder) for folder in folders[kind].values()]
        else:
            for module in debias.protocol.sites.values():
                files += base_files(CFG, saes, module)
    return files


def debias_person(wildcards):
    return person_files(CFG, debias_of(wildcards))


def debias_code(wildcards):
    """The code of the experiment, with the importers where SAEs come from elsewhere."""
    sources = {saes.source for saes in debias_of(wildcards).saes.values()}
    importers = ["saeflow.sae.foreign"] if "folder" in sources else []
    return fingerprint("saeflow.debias.run", *importers)


def selection_code(wildcards):
    reranks = selection_of(wildcards).tracin is not None
    return fingerprint(
        "saeflow.retrieval.select", *(["saeflow.retrieval.tracin"] if reranks else [])
    )

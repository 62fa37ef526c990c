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

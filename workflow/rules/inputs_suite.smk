# Inputs and parameters of what the latents stand for, looked up by their wildcards.


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


def tested_corpus(wildcards):
    return manifest(P.corpus(tested_of(wildcards).corpus))


def local_judge_files():
    """The files of the model that judges, where it lies in a folder."""
    return list(map(str, judge_files(CFG.autointerp.judge, CFG.data_dir or Path())))


def judge_root():
    """What a local judge's path is relative to; another judge's answers do not depend on it."""
    return str(CFG.data_dir or ".") if local_judge_files() else "."

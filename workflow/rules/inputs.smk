# Inputs and parameters of the rules, looked up in the config by their wildcards.


# Corpora


def corpus_settings(wildcards):
    return plain(CFG.corpora[wildcards.corpus])


def corpus_code(wildcards):
    source = CFG.corpora[wildcards.corpus].source.replace("-", "_")
    modules = ["documents", source]
    if source in ("biographies", "facts"):
        modules.append("generated")
    return fingerprint(*(f"saeflow.corpora.{module}" for module in modules))


def corpus_versions(wildcards):
    """Versions of the packages whose documentation is read."""
    packages = getattr(CFG.corpora[wildcards.corpus], "packages", ())
    return {package: package_version(package) for package in packages}


def corpus_input(wildcards):
    return corpus_files(CFG, wildcards.corpus)


# Subjects

PRETRAINED = [
    name
    for name, subject in CFG.subjects.items()
    if subject.source == "pretrain" and subject.pretrain
]


def subject_settings(wildcards):
    return plain(CFG.subjects[wildcards.subject])


def subject_paths(wildcards):
    return str(subject_root(CFG, wildcards.subject, PROJECT))


def loaded_files(wildcards):
    return subject_files(CFG, wildcards.subject, PROJECT)


def subject_code(wildcards):
    """The code of a subject's source: what `make_subject` imports for it."""
    source = CFG.subjects[wildcards.subject].source
    modules = ["materialise"]
    if source == "llama2c" or wildcards.subject in PRETRAINED:
        modules.append(source)
    return fingerprint(*(f"saeflow.subjects.{module}" for module in modules))


def mixture_corpora(wildcards):
    mixture = CFG.subjects[wildcards.subject].training.mixture
    return [manifest(P.corpus(corpus)) for corpus in mixture]


# Tokens and activations


def window_settings(wildcards):
    keys = ("context", "prepend_bos", "min_window")
    return {key: getattr(CFG.subjects[wildcards.subject], key) for key in keys}


def activation_settings(wildcards):
    """Settings of a cache, with the budget of its own split alone."""
    settings = plain(CFG.activations)
    tokens = {wildcards.split: settings["tokens"].get(wildcards.split)}
    return {**settings, "tokens": tokens}


def subject_sites(wildcards):
    return list(CFG.subjects[wildcards.subject].sites)


# SAEs


def sae_settings(wildcards):
    return CFG.sae(
        wildcards.variant, int(wildcards.d_sae), int(wildcards.l0), int(wildcards.seed)
    ).identity()


def sae_code(wildcards):
    return training_code(CFG.variants[wildcards.variant])


def trained_base(wildcards):
    """Folder of the SAE of this workflow whose error is the target, or None."""
    base = CFG.variants[wildcards.variant].error_of
    if base is None or base.source == "folder":
        return None
    same = {"subject": wildcards.subject, "site": wildcards.site}
    return P.sae(POINT.format(**same, **plain(base)), wildcards.seed)


def base_inputs(wildcards):
    """The files of the frozen SAE whose error is the target: none, a manifest, or a folder's."""
    base = CFG.variants[wildcards.variant].error_of
    if base is None:
        return []
    if folder := trained_base(wildcards):
        return [manifest(folder)]
    return base_files(CFG, base)


def base_path(wildcards):
    """Where the script finds the frozen SAE, or None."""
    base = CFG.variants[wildcards.variant].error_of
    if base is None:
        return None
    return trained_base(wildcards) or str(base_folder(CFG, base))


def sae_groups():
    """The SAEs of all grids, in lists of up to `train_together` that share the batches they read.

    An SAE and its base are in different lists, and no two lists wait for each other.
    """
    shared = {}
    for paper in CFG.papers:
        for grid in CFG.paper(paper).grids.values():
            for point, seed in product(grid.points(), CFG.seeds):
                by_document = CFG.variants[point.variant].by_document
                cache = (point.subject, point.site, point.corpus)
                sae = SimpleNamespace(**plain(point), path=point.path, seed=str(seed))
                has_base = trained_base(sae) is not None  # which has none itself
                key = (*cache, seed, by_document, has_base)
                shared.setdefault(key, {})[point.path] = sae
    for saes in shared.values():
        listed = list(saes.values())
        for start in range(0, len(listed), CFG.train_together):
            yield listed[start : start + CFG.train_together]


def reserve_for_processes():
    """Give `train_sae` a thread, and the memory that is set for it, for each of its processes."""
    resources = workflow.get_rule("train_sae").resources
    given = resources["processes"]
    if given.is_evaluable() or not isinstance(given.value, int) or given.value < 1:
        raise WorkflowError(
            f"train_sae:processes is {given.raw}; it is how many processes train one SAE, "
            "a number from 1"
        )
    multiply(resources, ("mem",), given.value)
    threads = resources["_cores"]
    if not threads.is_evaluable():
        resources["_cores"] = max(threads.value, given.value)


def set_as_train_sae(rule, saes):
    """Give a rule for several SAEs what is set for `train_sae`, here, in a profile or by option.

    But as often its memory and its time as there are SAEs.
    """
    resources = workflow.get_rule(rule).resources
    resources.update(workflow.get_rule("train_sae").resources)
    multiply(resources, ("mem", "runtime"), len(saes))
    workflow.ruleorder(rule, "train_sae")


def multiply(resources, starts, times):
    """Multiply what is a number, in place, of the resources whose names start so."""
    for name, one in resources.items():
        if name.startswith(starts) and not one.is_evaluable():
            resources[name] = times * one.value


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
        "rounds": timing.rounds,
        "steps": timing.steps,
        "site": grid.site,
        "origin": {
            "paper": wildcards.paper,
            "subject": grid.subject,
            "corpus": grid.corpus,
            "split": TIMING_SPLIT,
            "selection": "all",
        },
        "variants": {
            name: CFG.sae(name, grid.d_sae, grid.reference_l0, seed).identity()
            for name in timing.variants
        },
    }


# Evaluation


def point_saes(wildcards):
    point = POINT.format(**wildcards)
    return [manifest(P.sae(point, seed)) for seed in CFG.seeds]


def each_seed(wildcards):
    """The wildcards of a point's SAEs, in the order of the seeds."""
    return [SimpleNamespace(**wildcards, seed=seed) for seed in CFG.seeds]


def point_base_inputs(wildcards):
    """The files of the frozen SAEs of all seeds; those in a folder are the same for each."""
    files = [path for sae in each_seed(wildcards) for path in base_inputs(sae)]
    return list(dict.fromkeys(files))


def point_bases(wildcards):
    """Where the frozen SAE of each seed is found, or None."""
    return [base_path(sae) for sae in each_seed(wildcards)]


def core_code(wildcards):
    """The code of the evaluation, with the importers where one may read the frozen SAE."""
    base = CFG.variants[wildcards.variant].error_of
    foreign = base is not None and base.source == "folder"
    importers = ["saeflow.sae.foreign"] if foreign else []
    return fingerprint("saeflow.evaluation.core", *importers)


def point_paper(wildcards):
    """The paper that a point belongs to: the first whose grids hold it."""
    path = POINT.format(**wildcards)
    for paper in CFG.papers:
        for grid in CFG.paper(paper).grids.values():
            if any(point.path == path for point in grid.points()):
                return paper
    raise WorkflowError(f"{path} is not a point of any grid of {', '.join(CFG.papers)}")


# Figures and tables


def grid_context(grid, variants):
    """What a figure says about its origin, and the grid that it must find complete."""
    return {
        "scale": CFG.scale,
        "subject": grid.subject,
        "site": grid.site,
        "corpus": grid.corpus,
        "training_tokens": CFG.training.tokens,
        "d_sae": grid.d_sae,
        "l0s": list(grid.l0),
        "reference_l0": grid.reference_l0,
        "seeds": list(CFG.seeds),
        "labels": {name: CFG.variants[name].label or name for name in variants},
    }


def figure_of(wildcards):
    return CFG.paper(wildcards.paper).figures[wildcards.name]


def table_of(wildcards):
    return CFG.paper(wildcards.paper).tables[wildcards.name]


def shown_grid(wildcards, shown):
    return CFG.paper(wildcards.paper).grids[shown.grid]


def shown_points(wildcards, shown):
    points = shown_grid(wildcards, shown).points()
    return [manifest(P.core(p.path)) for p in points if p.variant in shown.variants]


def figure_input(wildcards):
    return shown_points(wildcards, figure_of(wildcards))


def figure_settings(wildcards):
    return plain(figure_of(wildcards))


def figure_context(wildcards):
    figure = figure_of(wildcards)
    return grid_context(shown_grid(wildcards, figure), figure.variants)


def table_input(wildcards):
    table = table_of(wildcards)
    if table.timing is not None:
        return manifest(P.timing(wildcards.paper, table.timing))
    return shown_points(wildcards, table)


def table_settings(wildcards):
    return plain(table_of(wildcards))


def table_context(wildcards):
    table = table_of(wildcards)
    return grid_context(shown_grid(wildcards, table), table.variants)


# Claims


def grid_rows(paper, name):
    """Files with the rows of a grid: its points' core metrics and its timings."""
    section = CFG.paper(paper)
    timings = [t for t, timing in section.timings.items() if timing.grid == name]
    return [
        *(
            f"{P.core(point.path)}/core.parquet"
            for point in section.grids[name].points()
        ),
        *(f"{P.timing(paper, timing)}/timing.parquet" for timing in timings),
    ]


def claims_input(wildcards):
    grids = CFG.paper(wildcards.paper).grids
    rows = [row for name in grids for row in grid_rows(wildcards.paper, name)]
    return [manifest(Path(row).parent) for row in rows]


def claims_rows(wildcards):
    return {
        name: grid_rows(wildcards.paper, name)
        for name in CFG.paper(wildcards.paper).grids
    }


def claims_by_grid(wildcards):
    section = CFG.paper(wildcards.paper)
    return {
        name: [plain(claim) for claim in section.claims if claim.grid == name]
        for name in section.grids
    }


def claims_grids(wildcards):
    return {
        name: plain(grid) for name, grid in CFG.paper(wildcards.paper).grids.items()
    }


def claims_title(wildcards):
    return CFG.paper(wildcards.paper).title


# Report


def report_papers():
    """What the report shows of each paper."""
    return [
        {
            "name": paper,
            "title": CFG.paper(paper).title,
            "reference": CFG.paper(paper).reference,
            "figures": [
                reported(paper, name, figure, P.figure(paper, name))
                for name, figure in CFG.paper(paper).figures.items()
            ],
            "tables": [
                reported(paper, name, table, P.table(paper, name))
                for name, table in CFG.paper(paper).tables.items()
            ],
            "claims": P.claims(paper) if CFG.paper(paper).claims else None,
        }
        for paper in CFG.papers
    ]


def reported(paper, name, shown, stem):
    return {
        "name": name,
        "settings": plain(shown),
        "context": grid_context(CFG.paper(paper).grids[shown.grid], shown.variants),
        "stem": stem,
    }


def report_input():
    """The shown files, and the manifests of all that they were made from."""
    files = []
    for paper in CFG.papers:
        section = CFG.paper(paper)
        files += [f"{P.figure(paper, name)}.svg" for name in section.figures]
        files += [f"{P.table(paper, name)}.parquet" for name in section.tables]
        files += [f"{P.claims(paper)}.md"] if section.claims else []
    return files + [manifest(folder) for folder in report_artefacts()]


def report_artefacts():
    """Folders whose manifests are the provenance: subjects, corpora, caches, SAEs, metrics."""
    folders = {}
    for paper in CFG.papers:
        section = CFG.paper(paper)
        for grid in section.grids.values():
            folders[P.corpus(grid.corpus)] = None
            folders[P.subject(grid.subject)] = None
            folders[P.tokens(grid.subject, grid.corpus)] = None
            folders[P.activations(grid.subject, grid.corpus, "train")] = None
            for point in grid.points():
                folders.update({P.sae(point.path, seed): None for seed in CFG.seeds})
                folders[P.core(point.path)] = None
        folders.update({P.timing(paper, name): None for name in section.timings})
    return list(folders)


def report_settings(wildcards):
    grids = [grid for paper in CFG.papers for grid in CFG.paper(paper).grids.values()]
    return {
        "scale": CFG.scale,
        "seeds": list(CFG.seeds),
        "papers": report_papers(),
        "subjects": {grid.subject: P.subject(grid.subject) for grid in grids},
        "corpora": {grid.corpus: P.corpus(grid.corpus) for grid in grids},
        "artefacts": report_artefacts(),
        "benchmarks": f"{CFG.root}/benchmarks",
    }

# Inputs and parameters of the rules, looked up in the config by their wildcards.


# Corpora


def corpus_settings(wildcards):
    return plain(CFG.corpora[wildcards.corpus])


def corpus_code(wildcards):
    source = CFG.corpora[wildcards.corpus].source.replace("-", "_")
    modules = ["documents", source]
    if source in ("biographies", "facts", "exercises"):
        modules.append("generated")
    return fingerprint(*(f"saeflow.corpora.{module}" for module in modules))


def corpus_versions(wildcards):
    """Versions of the packages whose documentation is read."""
    packages = getattr(CFG.corpora[wildcards.corpus], "packages", ())
    return {package: package_version(package) for package in packages}


def corpus_input(wildcards):
    return corpus_files(CFG, wildcards.corpus)


def parent_corpora(wildcards):
    """The corpora that one is made of, if it is."""
    parents = getattr(CFG.corpora[wildcards.corpus], "parents", ())
    return [manifest(P.corpus(corpus)) for corpus in parents]


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
    budget = settings["tokens"].get(wildcards.split)
    tokens = {wildcards.split: CFG.subjects[wildcards.subject].cached_tokens or budget}
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


def other_sae(wildcards, other):
    """Folder of another SAE of this workflow, on the same subject and site."""
    here = {key: getattr(wildcards, key) for key in ("subject", "site", "d_sae", "l0")}
    named = {key: value for key, value in plain(other).items() if value is not None}
    seed = named.pop("seed", wildcards.seed)
    return P.sae(POINT.format(**{**here, **named}), seed)


def sae_files_of(wildcards, other):
    """The files of another SAE: none, a manifest, or those in a folder of the user's."""
    if other is None:
        return []
    if other.source == "folder":
        return base_files(CFG, other, wildcards.site)
    return [manifest(other_sae(wildcards, other))]


def sae_path_of(wildcards, other):
    """Where the script finds another SAE, or None."""
    if other is None:
        return None
    if other.source == "folder":
        return str(base_folder(CFG, other, wildcards.site))
    return other_sae(wildcards, other)


def base_inputs(wildcards):
    """The files of the frozen SAE whose error is the target."""
    return sae_files_of(wildcards, CFG.variants[wildcards.variant].error_of)


def base_path(wildcards):
    """Where the frozen SAE is whose error is the target, or None."""
    return sae_path_of(wildcards, CFG.variants[wildcards.variant].error_of)


def init_path(wildcards):
    """Where the SAE is whose weights a training starts from, or None."""
    return sae_path_of(wildcards, CFG.variants[wildcards.variant].init_from)


def needed_inputs(wildcards):
    """The files of the SAEs that one needs: what it starts from, and what it corrects."""
    start = sae_files_of(wildcards, CFG.variants[wildcards.variant].init_from)
    return [*base_inputs(wildcards), *start]


def sae_groups():
    """The SAEs of all grids and sweeps, in lists that one job trains from one read of a cache.

    A list holds up to `train_together` SAEs: whole variants as far as they fit. An SAE and what
    it starts from or corrects are in different lists, and no two lists wait for each other.
    """
    shared = {}
    for paper, seed in product(CFG.papers, CFG.seeds):
        for key, point in CFG.points(paper):
            if key.startswith(f"{paper}.debias"):
                continue  # a job of its own trains the SAEs of all sites
            by_document = CFG.variants[point.variant].by_document
            sae = SimpleNamespace(**plain(point), path=point.path, seed=str(seed))
            needs_sae = needed_inputs(sae) != []
            cache = (point.subject, point.site, point.corpus)
            reads = (*cache, seed, by_document, needs_sae)
            of_variant = shared.setdefault(reads, {}).setdefault(point.variant, {})
            of_variant[point.path] = sae
    for variants in shared.values():
        yield from packed([list(saes.values()) for saes in variants.values()])


def sae_jobs():
    """The SAEs that are trained in one job: those of a read, if asked for, and of all sites."""
    if CFG.train_together > 1:
        yield from sae_groups()
    yield from site_groups()


def packed(variants):
    """Lists of up to `train_together`; a variant is not split where it fits into one."""
    together = []
    for saes in variants:
        if together and len(together) + len(saes) > CFG.train_together:
            yield together
            together = []
        together = together + saes
        while len(together) > CFG.train_together:
            yield together[: CFG.train_together]
            together = together[CFG.train_together :]
    if together:
        yield together


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
    return fingerprint("saeflow.evaluation.core", *importers(wildcards.variant))


def importers(variant):
    """The code besides that may read the frozen SAE of a residual one, if it lies in a folder."""
    base = CFG.variants[variant].error_of
    foreign = base is not None and base.source == "folder"
    return ["saeflow.sae.foreign"] if foreign else []


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
    figures = CFG.paper(wildcards.paper).figures
    return filled(figures[wildcards.name], CFG, wildcards.paper)


def table_of(wildcards):
    tables = CFG.paper(wildcards.paper).tables
    return filled(tables[wildcards.name], CFG, wildcards.paper)


def shown_folders(paper, shown):
    """Folders of metrics that a figure or table is made from, by measure and by what they are of."""
    if getattr(shown, "measures", ()) == ("debias",):
        return {"debias": {str(seed): P.debias(paper, seed) for seed in CFG.seeds}}
    if hasattr(shown, "sweep"):
        return {
            measure: sweep_folders(paper, shown, measure) for measure in shown.measures
        }
    if getattr(shown, "timing", None) is not None:
        return {"timing": {shown.timing: P.timing(paper, shown.timing)}}
    points = CFG.paper(paper).grids[shown.grid].points()
    return {
        "core": {p.path: P.core(p.path) for p in points if p.variant in shown.variants}
    }


def sweep_folders(paper, shown, measure):
    if measure in SHARED_MEASURES:
        return {shown.sweep: P.shared(paper, shown.sweep, measure, shown.tested)}
    return {
        series: P.measure(paper, shown.sweep, measure, series, shown.tested)
        for series in shown.series
    }


def shown_context(paper, shown):
    """What a figure or table says about its origin, and what it must find complete."""
    section = CFG.paper(paper)
    if getattr(shown, "measures", ()) == ("debias",):
        return debias_context(section.debias)
    if hasattr(shown, "sweep"):
        return sweep_context(section.sweeps[shown.sweep], shown)
    return grid_context(section.grids[shown.grid], shown.variants)


def sweep_context(sweep, shown):
    series = {name: sweep.series[name] for name in shown.series}
    first, variants = sweep.l0[0], {name: s.variant for name, s in series.items()}
    return {
        "scale": CFG.scale,
        "subject": sweep.subject,
        "site": sweep.site,
        "corpus": sweep.tested[shown.tested].corpus,
        "split": sweep.tested[shown.tested].split,
        "trained_on": {name: s.corpus for name, s in series.items()},
        "training_tokens": {
            name: CFG.sae(variant, sweep.d_sae, first, 0).training.tokens
            for name, variant in variants.items()
        },
        "d_sae": sweep.d_sae,
        "l0s": list(sweep.l0),
        "reference_l0": sweep.reference_l0,
        "seeds": list(CFG.seeds),
        "labels": {name: s.label or name for name, s in series.items()},
    }


def debias_judge(debias):
    """Who decided on the latents of each kind of SAE."""
    people = debias.protocol.person
    if not people:
        return "an automatic judge"
    return ", ".join(
        f"{people.get(kind, 'an automatic judge')} ({kind})" for kind in debias.saes
    )


def debias_context(debias):
    kinds = list(debias.saes.values())
    return {
        "scale": CFG.scale,
        "subject": debias.subject,
        "site": debias.protocol.probe_site,
        "sites": len(debias.protocol.sites),
        "corpus": debias.corpus,
        "d_sae": kinds[0].d_sae,
        "seeds": list(CFG.seeds),
        "judge": debias_judge(debias),
        "generated": CFG.corpora[debias.corpus].source == "biographies",
    }


def folder_inputs(folders):
    return [manifest(f) for of_measure in folders.values() for f in of_measure.values()]


def figure_folders(wildcards):
    return shown_folders(wildcards.paper, figure_of(wildcards))


def figure_input(wildcards):
    return folder_inputs(figure_folders(wildcards))


def figure_settings(wildcards):
    return plain(figure_of(wildcards))


def figure_context(wildcards):
    return shown_context(wildcards.paper, figure_of(wildcards))


def figure_code(wildcards):
    of_grid = hasattr(figure_of(wildcards), "grid")
    return fingerprint(f"saeflow.figures.draw{'' if of_grid else '_folders'}")


def table_code(wildcards):
    of_grid = hasattr(table_of(wildcards), "grid")
    return fingerprint(f"saeflow.figures.tables{'' if of_grid else '_folders'}")


def table_folders(wildcards):
    return shown_folders(wildcards.paper, table_of(wildcards))


def table_input(wildcards):
    return folder_inputs(table_folders(wildcards))


def table_settings(wildcards):
    return plain(table_of(wildcards))


def table_context(wildcards):
    return shown_context(wildcards.paper, table_of(wildcards))


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


def sweep_rows(paper, name, claims):
    """Files with the rows of a sweep that some claim on it is judged by."""
    sweep, files = CFG.paper(paper).sweeps[name], {}
    for claim in claims:
        tested = [
            t for t, text in sweep.tested.items() if claim.corpus in (None, text.corpus)
        ]
        metrics = {
            metric
            for part in claim.parts
            for metric in (part.metric, part.baseline_metric)
            if metric is not None
        }
        measures = set(map(measure_of, metrics))
        if claim.l0_tolerance is not None:
            measures.add("core")  # has the measured L0
        for measure in sorted(measures):
            for folder in claim_folders(paper, name, measure, claim.variants, tested):
                files[f"{folder}/{MEASURE_FILES[measure]}"] = None
    return list(files)


def claim_folders(paper, sweep, measure, series, tested):
    if measure in SHARED_MEASURES:
        return [P.shared(paper, sweep, measure, text) for text in tested]
    return [P.measure(paper, sweep, measure, s, t) for s in series for t in tested]


def claim_experiments(wildcards):
    """The claims of a paper by the experiment that they are about, with the files of its rows."""
    paper, section = wildcards.paper, CFG.paper(wildcards.paper)
    experiments = []
    for name, grid in section.grids.items():
        claims = [claim for claim in section.claims if claim.grid == name]
        experiments.append((claims, grid_rows(paper, name), grid))
    for name, sweep in section.sweeps.items():
        claims = [claim for claim in section.claims if claim.sweep == name]
        experiments.append((claims, sweep_rows(paper, name, claims), sweep))
    claims = [claim for claim in section.claims if claim.debias]
    rows = [f"{P.debias(paper, seed)}/debias.parquet" for seed in CFG.seeds]
    experiments.append((claims, rows, None))
    return [
        {
            "claims": [plain(claim) for claim in claims],
            "rows": rows,
            "reference_l0": getattr(grid, "reference_l0", 0),
            "l0s": list(getattr(grid, "l0", ())),
            "window": (
                plain(window) if (window := getattr(grid, "window", None)) else None
            ),
        }
        for claims, rows, grid in experiments
        if claims
    ]


def claims_input(wildcards):
    files = [row for e in claim_experiments(wildcards) for row in e["rows"]]
    return [manifest(Path(row).parent) for row in files]


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
        "settings": plain(filled(shown, CFG, paper)),
        "context": shown_context(paper, shown),
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
        for _, point in CFG.points(paper):
            folders[P.corpus(point.corpus)] = None
            folders[P.subject(point.subject)] = None
            folders[P.tokens(point.subject, point.corpus)] = None
            folders[P.activations(point.subject, point.corpus, "train")] = None
            folders.update({P.sae(point.path, seed): None for seed in CFG.seeds})
        for shown in (*section.figures.values(), *section.tables.values()):
            for of_measure in shown_folders(paper, shown).values():
                folders.update(dict.fromkeys(of_measure.values()))
        for path in claims_input(SimpleNamespace(paper=paper)):
            folders[str(Path(path).parent)] = None
    return list(folders)


def report_settings(wildcards):
    points = [point for paper in CFG.papers for _, point in CFG.points(paper)]
    subjects = dict.fromkeys(point.subject for point in points)
    corpora = dict.fromkeys(point.corpus for point in points)
    return {
        "scale": CFG.scale,
        "seeds": list(CFG.seeds),
        "papers": report_papers(),
        "subjects": {subject: P.subject(subject) for subject in subjects},
        "corpora": {corpus: P.corpus(corpus) for corpus in corpora},
        "artefacts": report_artefacts(),
        "benchmarks": f"{CFG.root}/benchmarks",
    }


def all_targets(wildcards):
    """Path, title and the folders behind each figure, table, claims table and the report."""
    targets = []
    for paper in CFG.papers:
        section = CFG.paper(paper)
        for name, figure in section.figures.items():
            path = f"{P.figure(paper, name)}.svg"
            targets.append((path, figure.title, folders_behind(paper, figure)))
        for name, table in section.tables.items():
            path = f"{P.table(paper, name)}.md"
            targets.append((path, table.title, folders_behind(paper, table)))
        if section.claims:
            path, title = f"{P.claims(paper)}.md", f"Claims of {section.title}"
            manifests = claims_input(SimpleNamespace(paper=paper))
            targets.append(
                (path, title, [str(Path(path).parent) for path in manifests])
            )
    return [*targets, (P.report(), "Report", report_artefacts())]


def folders_behind(paper, shown):
    found = shown_folders(paper, shown).values()
    return [folder for of_measure in found for folder in of_measure.values()]

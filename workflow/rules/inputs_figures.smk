# Inputs and parameters of figures, tables, claims and the report, looked up by their wildcards.


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
    return grid_folders(paper, shown)


def grid_folders(paper, shown):
    """Core metrics by point, and other measures by variant; a baseline has nothing to compare."""
    grid = CFG.paper(paper).grids[shown.grid]
    folders = {
        "core": {
            p.path: P.core(p.path) for p in grid.points() if p.variant in shown.variants
        }
    }
    for measure in {measure_of_grid(metric): None for metric in shown.metrics}:
        if measure != "core":
            folders[measure] = {
                variant: P.measure(paper, shown.grid, measure, variant, grid.corpus)
                for variant in shown.variants
                if measure not in PAIR_MEASURES or variant != grid.baseline
            }
    return folders


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


def claim_metrics(claim):
    parts = ((part.metric, part.baseline_metric) for part in claim.parts)
    return {metric for both in parts for metric in both if metric is not None}


def grid_rows(paper, name, claims):
    """Files with the rows of a grid: core metrics, timings, and measures that claims ask for."""
    section = CFG.paper(paper)
    grid = section.grids[name]
    timings = [
        t
        for t, timing in section.timings.items()
        if timing.grid == name and timing.d_sae is None
    ]
    files = [f"{P.core(point.path)}/core.parquet" for point in grid.points()]
    files += [f"{P.timing(paper, timing)}/timing.parquet" for timing in timings]
    for claim in claims:
        metrics = claim_metrics(claim) - {TIMING_METRIC}
        for measure in sorted(set(map(measure_of_grid, metrics)) - {"core"}):
            series = [
                variant
                for variant in claim.variants
                if measure not in PAIR_MEASURES or variant != grid.baseline
            ]
            folders = claim_folders(paper, name, measure, series, grid.tested)
            files += [f"{folder}/{MEASURE_FILES[measure]}" for folder in folders]
    return list(dict.fromkeys(files))


def sweep_rows(paper, name, claims):
    """Files with the rows of a sweep that some claim on it is judged by."""
    sweep, files = CFG.paper(paper).sweeps[name], {}
    for claim in claims:
        tested = [
            t for t, text in sweep.tested.items() if claim.corpus in (None, text.corpus)
        ]
        measures = set(map(measure_of, claim_metrics(claim)))
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
        experiments.append((claims, grid_rows(paper, name, claims), grid))
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

# Everything that was made -> one page; and the list of what can be made.


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
            for point in CFG.points(grid):
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


rule report:
    input:
        report_input(),
    output:
        P.report(),
    log:
        P.log("report", "report"),
    benchmark:
        P.benchmark("report", "report")
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=report_settings,
        code=fingerprint("saeflow.report.build"),
    script:
        "../scripts/report.py"


rule list_targets:
    log:
        P.log("list_targets", "list_targets"),
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        config=CFG.model_dump_json(),
    shell:
        "python workflow/scripts/list_targets.py {params.config:q} 2> {log}"

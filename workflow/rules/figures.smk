# Metrics -> figures and tables, each a target by its path.


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
        "labels": {name: CFG.variants[name].label for name in variants},
    }


def figure_of(wildcards):
    return CFG.paper(wildcards.paper).figures[wildcards.name]


def table_of(wildcards):
    return CFG.paper(wildcards.paper).tables[wildcards.name]


def shown_grid(wildcards, shown):
    return CFG.paper(wildcards.paper).grids[shown.grid]


def shown_points(wildcards, shown):
    points = CFG.points(shown_grid(wildcards, shown))
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


rule figure:
    input:
        figure_input,
    output:
        report(
            P.figure("{paper}", "{name}") + ".svg",
            category="{paper}",
            subcategory="figures",
            labels={"figure": "{name}"},
            caption="../report/figure.rst",
        ),
        expand(
            P.figure("{{paper}}", "{{name}}") + ".{suffix}", suffix=FIGURE_SUFFIXES[1:]
        ),
    log:
        P.log("figure", "{paper}-{name}"),
    benchmark:
        P.benchmark("figure", "{paper}-{name}")
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=figure_settings,
        context=figure_context,
        code=fingerprint("saeflow.figures.draw"),
    script:
        "../scripts/figure.py"


rule table:
    input:
        table_input,
    output:
        report(
            P.table("{paper}", "{name}") + ".csv",
            category="{paper}",
            subcategory="tables",
            labels={"table": "{name}"},
            caption="../report/table.rst",
        ),
        expand(
            P.table("{{paper}}", "{{name}}") + ".{suffix}", suffix=TABLE_SUFFIXES[1:]
        ),
    log:
        P.log("table", "{paper}-{name}"),
    benchmark:
        P.benchmark("table", "{paper}-{name}")
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=table_settings,
        context=table_context,
        code=fingerprint("saeflow.figures.tables"),
    script:
        "../scripts/table.py"

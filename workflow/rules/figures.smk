# Metrics -> figures and tables, each a target by its path.


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
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=figure_settings,
        folders=figure_folders,
        context=figure_context,
        code=figure_code,
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
    conda:
        "../../envs/cpu.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=table_settings,
        folders=table_folders,
        context=table_context,
        code=table_code,
    script:
        "../scripts/table.py"

# Which jobs run in one process, and what each of them is given.

from hashlib import sha256

from snakemake.iocontainers import Wildcards

MEASURED_BY = {
    "core": "evaluate_series",
    "pareto": "relate_series",
    "tokens": "measure_tokens",
    "ratios": "compare_counts",
    "explained": "explain_latents",
    "concepts": "recall_concepts",
    "composition": "measure_decoders",
    "clustering": "measure_decoders",
    "uniqueness": "compare_decoders",
    "decomposition": "compare_decoders",
    "decomposed_latents": "show_sums",
    "absorption": "measure_absorption",
    "sparse_probing": "probe_text",
    "scr": "probe_text",
    "tpp": "probe_text",
    "ravel": "measure_ravel",
    "detection": "measure_detection",
}
RELATED = {"pareto": "core", "ratios": "tokens", "decomposed_latents": "decomposition"}


def named_groups(path):
    """A pattern of what the wildcards of a path can be; none of them has a slash."""
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)))


CORE = named_groups(P.core(POINT))
MEASURE = named_groups(
    P.measure("{paper}", "{sweep}", "{measure}", "{series}", "{tested}")
)


def measured():
    """Rule, wildcards, and figures and tables, of the folders of metrics behind all targets."""
    found = {}
    summaries = {P.report(), *(f"{P.claims(paper)}.md" for paper in CFG.papers)}
    for target, _, behind in all_targets(None):
        shown_by = set() if target in summaries else {target}
        for folder in behind:
            for path in [folder, *related(folder)]:
                if (job := measured_by(path)) is not None:
                    found.setdefault(path, (*job, set()))[2].update(shown_by)
    return list(found.values())


def measured_by(folder):
    if (of_point := CORE.fullmatch(folder)) is not None:
        return "evaluate_core", of_point.groupdict()
    if (of_series := MEASURE.fullmatch(folder)) is not None:
        return MEASURED_BY[of_series["measure"]], of_series.groupdict()
    return None


def related(folder):
    """The folders that a relation of two series is made from, or of what one shows further."""
    of_series = MEASURE.fullmatch(folder)
    if of_series is None or of_series["measure"] not in RELATED:
        return []
    where = SimpleNamespace(**of_series.groupdict())
    folders = compared(where, RELATED[where.measure])
    return (
        [folders[where.series]] if where.measure in PAIR_MEASURES else folders.values()
    )


def selected(measurements):
    """Rule, wildcards, and figures and tables, of what makes and caches the text of selections."""
    asked = {}
    for rule, wildcards, targets in measurements:
        if "sweep" in wildcards:
            sweep = sweep_of(SimpleNamespace(**wildcards))
            where = (sweep.subject, sweep.series[wildcards["series"]].corpus)
            asked.setdefault(where, set()).update(targets)
    for (subject, corpus), targets in asked.items():
        if corpus in SELECTIONS:
            cut = {"subject": subject, "corpus": corpus}
            yield "select_documents", {"corpus": corpus}, targets
            yield "tokenise", cut, targets
            yield "cache_activations", {**cut, "split": "train"}, targets


def job_groups():
    """Rule and wildcards of the jobs that one process runs.

    Up to `measure_together` variants or series on one text, or `select_together` selections for one
    domain. None of a group waits for another, and the same figures and tables ask for all of
    them, so that a single figure makes nothing that it does not show.
    """
    groups, measurements = {}, measured()
    for rule, wildcards, targets in measurements:
        alike = [
            v for k, v in wildcards.items() if k not in ("variant", "series", "l0")
        ]
        key = (rule, *alike, frozenset(targets))
        groups.setdefault((key, CFG.measure_together), []).append(wildcards)
    for rule, wildcards, targets in selected(measurements):
        selection = CFG.corpora[wildcards["corpus"]]
        alike = (selection.domain, selection.tracin is not None)
        key = (rule, wildcards.get("subject"), *alike, frozenset(targets))
        groups.setdefault((key, CFG.select_together), []).append(wildcards)
    for ((rule, *_), most), members in groups.items():
        for start in range(0, len(members), most):
            if len(together := members[start : start + most]) > 1:
                yield rule, together


# What Snakemake gives each of them where it runs by itself


def files_together(rule, members):
    """A function to the input files of all jobs."""

    def files(wildcards):
        base = workflow.get_rule(rule)
        of_all = (
            f for m in members for f in base.expand_input(Wildcards(fromdict=m))[0]
        )
        return list(dict.fromkeys(of_all))

    return files


def outputs_together(rule, members):
    (pattern,) = workflow.get_rule(rule).output
    return [str(pattern.apply_wildcards(Wildcards(fromdict=m))) for m in members]


def jobs_together(rule, members):
    """A function to what the script of the rule is given for each job, as plain values."""
    return lambda wildcards: [given_alone(rule, member) for member in members]


def given_alone(rule, member):
    base, wildcards = workflow.get_rule(rule), Wildcards(fromdict=member)
    files = base.expand_input(wildcards)[0]
    output = base.expand_output(wildcards)[0]
    params = base.expand_params(wildcards, files, output, None)[0]
    return {
        "wildcards": member,
        "input": {name: plain_files(paths) for name, paths in files.items()},
        "output": list(map(str, output)),
        "params": dict(params.items()),
    }


def plain_files(paths):
    return str(paths) if isinstance(paths, str) else list(map(str, paths))


def script_code(rule):
    """Changes with the script of a rule, which another one runs."""
    return sha256(
        (PROJECT / "workflow" / "scripts" / f"{rule}.py").read_bytes()
    ).hexdigest()

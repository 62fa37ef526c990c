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


def cache_threads(wildcards):
    """All cores; one for a selection, which is short, so that several are cached side by side.

    And one for several selections in one process, which are no wildcard.
    """
    corpus = wildcards.get("corpus")
    return 1 if corpus is None or corpus in SELECTIONS else max(1, workflow.cores or 1)


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
    here = {key: getattr(wildcards, key) for key in ("subject", "site", "l0")}
    asked = CFG.sae(wildcards.variant, int(wildcards.d_sae), int(wildcards.l0), 0)
    here["d_sae"] = asked.start_width
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
    """The SAEs of all grids and sweeps, in lists that one job trains.

    One read of a cache trains up to `train_together` SAEs of one seed: whole variants as far as
    they fit. A job has one read, or those of `seeds_together` seeds where the SAEs start from or
    correct another. An SAE and what it starts from or corrects are in different lists, and no two
    lists wait for each other.
    """
    shared = {}
    for paper, seed in product(CFG.papers, CFG.seeds):
        for key, point in CFG.points(paper):
            if key.startswith(f"{paper}.debias"):
                continue  # a job of its own trains the SAEs of all sites
            by_document = CFG.variants[point.variant].by_document
            sae = SimpleNamespace(**plain(point), path=point.path, seed=str(seed))
            needs_sae = needed_inputs(sae) != []
            reads = (point.subject, point.site, point.corpus, by_document, needs_sae)
            of_seed = shared.setdefault(reads, {}).setdefault(seed, {})
            of_seed.setdefault(point.variant, {})[point.path] = sae
    for (*_, needs_sae), seeds in shared.items():
        reads = [
            packed([list(saes.values()) for saes in variants.values()])
            for variants in seeds.values()
        ]
        yield from joined(reads, CFG.seeds_together if needs_sae else 1)


def sae_jobs():
    """The SAEs that are trained in one job: those of some reads, and of all sites."""
    yield from (saes for saes in sae_groups() if len(saes) > 1)
    yield from site_groups()


def joined(reads, number):
    """Join the reads of so many seeds, each of which has the same, into lists of a job."""
    for start in range(0, len(reads), number):
        for of_seeds in zip(*reads[start : start + number], strict=True):
            yield [sae for saes in of_seeds for sae in saes]


def packed(variants):
    """Lists of up to `train_together`; a variant is not split where it fits into one."""
    lists, together = [], []
    for saes in variants:
        if together and len(together) + len(saes) > CFG.train_together:
            lists.append(together)
            together = []
        together = together + saes
        while len(together) > CFG.train_together:
            lists.append(together[: CFG.train_together])
            together = together[CFG.train_together :]
    return [*lists, together] if together else lists


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
    """Let a rule for several SAEs have its time as often, and its memory for those of one read."""
    reads = Counter((sae.site, sae.seed) for sae in saes)
    set_as("train_sae", rule, runtime=len(saes), mem=max(reads.values()))


def set_as(one, several, **times):
    """What is set for `one`, here, in a profile or by option, is for `several` of it as well.

    But so many times the resources whose names start with those of `times`.
    """
    resources = workflow.get_rule(several).resources
    resources.update(workflow.get_rule(one).resources)
    for start, number in times.items():
        multiply(resources, (start,), number)
    workflow.ruleorder(several, one)


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
        "d_sae": plain(timing)["d_sae"],
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

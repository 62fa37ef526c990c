# Inputs and parameters of the debiasing experiment, looked up by their wildcards.


def debias_of(wildcards):
    return CFG.paper(wildcards.paper).debias


def debias_subject(wildcards):
    return manifest(P.subject(debias_of(wildcards).subject))


def debias_corpus(wildcards):
    return manifest(P.corpus(debias_of(wildcards).corpus))


def debias_settings(wildcards):
    return plain(debias_of(wildcards).protocol)


def debias_saes(wildcards):
    """Folders of the SAEs of one seed, by kind and site."""
    debias = debias_of(wildcards)
    trained, sites = debias.points(), debias.protocol.sites
    return {
        kind: (
            {
                site: P.sae(point.path, wildcards.seed)
                for site, point in zip(sites, trained[kind], strict=True)
            }
            if kind in trained
            else {
                site: str(base_folder(CFG, saes, module))
                for site, module in sites.items()
            }
        )
        for kind, saes in debias.saes.items()
    }


def debias_widths(wildcards):
    """Latents of an SAE of each kind, as the config has them."""
    return {kind: saes.d_sae for kind, saes in debias_of(wildcards).saes.items()}


def debias_inputs(wildcards):
    """The files of the SAEs: manifests of those that are trained, and what is in folders."""
    debias = debias_of(wildcards)
    folders, files = debias_saes(wildcards), []
    for kind, saes in debias.saes.items():
        if saes.source == "trained":
            files += [manifest(folder) for folder in folders[kind].values()]
        else:
            for module in debias.protocol.sites.values():
                files += base_files(CFG, saes, module)
    return files


def debias_person(wildcards):
    return person_files(CFG, debias_of(wildcards))


def debias_code(wildcards):
    """The code of the experiment, with the importers where SAEs come from elsewhere."""
    sources = {saes.source for saes in debias_of(wildcards).saes.values()}
    importers = ["saeflow.sae.foreign"] if "folder" in sources else []
    return fingerprint("saeflow.debias.run", *importers)


def site_groups():
    """The SAEs of all sites of a debiasing experiment, in lists of one corpus, variant and seed."""
    for paper in CFG.papers:
        if (debias := CFG.paper(paper).debias) is None:
            continue
        for points, seed in product(debias.points().values(), CFG.seeds):
            yield [
                SimpleNamespace(**plain(point), path=point.path, seed=str(seed))
                for point in points
            ]

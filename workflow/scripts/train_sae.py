from saeflow.job import job

processes = snakemake.resources.processes
with job(snakemake.log[0], max(1, snakemake.threads // processes)):
    from pathlib import Path

    from saeflow.sae.launch import train

    given = snakemake.params
    # One SAE by its wildcards, or lists of what there is of each of several.
    several = isinstance(given.settings, list)
    columns = (given.site, given.settings, given.base, given.init)
    saes = (
        zip(*columns, snakemake.output, strict=True)
        if several
        else [(*columns, snakemake.output[0])]
    )
    minutes = snakemake.resources.checkpoint_seconds / 60
    wanted = {}
    for site, settings, base, init, manifest in saes:
        training = {**settings["training"], "checkpoint_minutes": minutes}
        wanted.setdefault((site, settings["seed"]), []).append(
            {
                "settings": {**settings, "training": training},
                "out": str(Path(manifest).parent),
                "base": base,
                "init": init,
            }
        )
    for (site, _), of_read in wanted.items():
        train(
            {
                "wanted": of_read,
                "activations": str(Path(snakemake.input.activations).parent),
                "site": site,
                "device": "cuda" if snakemake.resources.gpu else "cpu",
            },
            processes,
        )

from saeflow.job import job

processes = snakemake.resources.processes
with job(snakemake.log[0], max(1, snakemake.threads // processes)):
    from pathlib import Path

    from saeflow.sae.launch import train

    # One SAE by its wildcards, or a list of them.
    several = isinstance(snakemake.params.settings, list)
    settings = snakemake.params.settings if several else [snakemake.params.settings]
    bases = snakemake.params.base if several else [snakemake.params.base]
    minutes = snakemake.resources.checkpoint_seconds / 60
    train(
        {
            "wanted": [
                {
                    "settings": {**s, "training": {**s["training"], "checkpoint_minutes": minutes}},
                    "out": str(Path(manifest).parent),
                    "base": base,
                }
                for s, base, manifest in zip(settings, bases, snakemake.output, strict=True)
            ],
            "activations": str(Path(snakemake.input.activations).parent),
            "site": snakemake.params.site if several else snakemake.wildcards.site,
            "device": "cuda" if snakemake.resources.gpu else "cpu",
        },
        processes,
    )

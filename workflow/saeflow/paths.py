"""Where every artefact lies below a scale's results: the only place that spells paths.

Arguments may be names or Snakemake wildcards (`{corpus}`), so that rules and code agree.
"""

from __future__ import annotations

POINT = "{subject}/{site}/{corpus}/{variant}/d{d_sae}-l0_{l0}"
FIGURE_SUFFIXES = ("svg", "png", "pdf", "parquet", "csv")
TABLE_SUFFIXES = ("csv", "md", "tex", "parquet")


class Paths:
    """Artefact folders and files below `root`, as strings; folders are finished by a manifest."""

    def __init__(self, root: str) -> None:
        self.root = root

    def corpus(self, corpus: str) -> str:
        """Folder of a corpus's documents."""
        return f"{self.root}/corpora/{corpus}"

    def subject(self, subject: str) -> str:
        """Folder of a subject: weights and tokenizer, or where they are."""
        return f"{self.root}/subjects/{subject}"

    def tokens(self, subject: str, corpus: str) -> str:
        """Folder of a corpus cut into windows of a subject's tokens."""
        return f"{self.root}/tokens/{subject}/{corpus}"

    def activations(self, subject: str, corpus: str, split: str) -> str:
        """Folder of an activation cache."""
        return f"{self.root}/activations/{subject}/{corpus}/{split}"

    def sae(self, point: str, seed: str) -> str:
        """Folder of a trained SAE."""
        return f"{self.root}/saes/{point}/seed{seed}"

    def core(self, point: str) -> str:
        """Folder of the core metrics of one point, all seeds."""
        return f"{self.root}/metrics/core/{point}"

    def index(self, corpus: str, name: str) -> str:
        """Folder of an index over a corpus's documents, for retrieval."""
        return f"{self.root}/indexes/{corpus}/{name}"

    def measure(self, paper: str, sweep: str, measure: str, series: str, tested: str) -> str:
        """Folder of one measure of a series of a sweep on one text, all seeds."""
        return f"{self.root}/metrics/{paper}/{sweep}/{measure}/{series}/{tested}"

    def shared(self, paper: str, sweep: str, measure: str, tested: str) -> str:
        """Folder of one measure of all series of a sweep together on one text."""
        return f"{self.root}/metrics/{paper}/{sweep}/{measure}/{tested}"

    def debias(self, paper: str, seed: str) -> str:
        """Folder of one seed of the debiasing experiment."""
        return f"{self.root}/metrics/{paper}/debias/seed{seed}"

    def timing(self, paper: str, name: str) -> str:
        """Folder of a training-time measurement."""
        return f"{self.root}/metrics/timing/{paper}/{name}"

    def figure(self, paper: str, name: str) -> str:
        """A figure's files without their suffix."""
        return f"{self.root}/figures/{paper}/{name}"

    def table(self, paper: str, name: str) -> str:
        """A table's files without their suffix."""
        return f"{self.root}/tables/{paper}/{name}"

    def claims(self, paper: str) -> str:
        """A paper's judged claims without their suffix."""
        return f"{self.root}/claims/{paper}"

    def report(self) -> str:
        """The report of the whole scale."""
        return f"{self.root}/report.html"

    def log(self, rule: str, key: str) -> str:
        """Log of one job."""
        return f"{self.root}/logs/{rule}/{key}.log"

    def benchmark(self, rule: str, key: str) -> str:
        """Time and memory of one job, as Snakemake measures them."""
        return f"{self.root}/benchmarks/{rule}/{key}.tsv"

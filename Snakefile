# saeflow: every table and figure of the configured papers, from text to report.
#
#   snakemake --cores 2                                        everything, at desk scale
#   snakemake --cores 2 results/desk/figures/ortsae/fig3a.svg  one figure and what it needs
#   snakemake --cores 1 list_targets                           what there is to ask for
#
#   corpus -> tokens -> subject -> activations -> SAEs -> metrics -> figures, tables, claims -> report

from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/inputs_sweeps.smk"
include: "workflow/rules/inputs_suite.smk"
include: "workflow/rules/inputs_selections.smk"
include: "workflow/rules/inputs_debias.smk"
include: "workflow/rules/inputs_figures.smk"
include: "workflow/rules/inputs_together.smk"
include: "workflow/rules/corpora.smk"
include: "workflow/rules/retrieval.smk"
include: "workflow/rules/subjects.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/saes.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/sweeps.smk"
include: "workflow/rules/suite.smk"
include: "workflow/rules/together.smk"
include: "workflow/rules/debias.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        P.report(),

from pathlib import Path

from mechdiff.config import DEFAULT_CONFIG, shipped
from mechdiff.reading import check_config_files


report: "workflow/report/workflow.rst"


# Where there is no config, the product's: its relative paths then start from the product's folder.
OWN_CONFIG = bool(workflow.configfiles) or Path(DEFAULT_CONFIG).exists()
CONFIG = DEFAULT_CONFIG if OWN_CONFIG else shipped(DEFAULT_CONFIG)
check_config_files(workflow.configfiles or [CONFIG])


if not workflow.configfiles:  # a --configfile stands alone: the default models would otherwise be merged into it

    configfile: CONFIG


include: "workflow/rules/common.smk"
include: "workflow/rules/family.smk"
include: "workflow/rules/dataset.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/discovery.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/functions.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"


rule all:
    default_target: True
    input:
        MANIFEST,
        all_records(),  # what was deleted with its record is made again


for each in workflow.rules:
    name_params(each)


onstart:
    if MISSING:
        sys.exit("mechdiff: the run does not start, checkpoints are missing")
    try:
        take_over(".snakemake")
        tell({"config": config, "code": CODE})
    except (InputError, OSError) as error:
        sys.exit(f"mechdiff: {error}")


onsuccess:
    if Path(MANIFEST).exists() and Path(MANIFEST).stat().st_mtime > STARTED:
        verdict = Path(RUN, "verdict", "verdict.md").read_text().split("\n## ")[0]
        print(f"\n{Path(RUN, 'tables', 'table_1.md').read_text()}\n{verdict}")
        print(f"Tables, figures and the verdict: {RUN}/tables, {RUN}/figures, {RUN}/verdict/verdict.html")

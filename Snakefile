from pathlib import Path

from mechdiff.running.config import DEFAULT_CONFIG, shipped
from mechdiff.common.reading import check_config_files


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
    message:
        "Every table and figure"


for each in workflow.rules:
    name_params(each)


onstart:
    if MISSING:
        sys.exit("mechdiff: the run does not start, checkpoints are missing")
    try:
        take_over(".snakemake")
        lock(folder for job in workflow.dag.needrun_jobs() for folder in written_into(job))
        tell({"config": config, "code": CODE})
        # Each time it looks for jobs that may start, Snakemake 9.27 sets a timer to look again, and each of those another:
        # after a hundred jobs it looks a hundred times a second. There is no rate to be limited to.
        workflow.scheduler.job_rate_limiter = None
    except (InputError, OSError) as error:
        sys.exit(f"mechdiff: {error}")


onsuccess:
    if seals_the_run():
        verdict = Path(RUN, "verdict", "verdict.md").read_text().split("\n## ")[0]
        print(f"\n{Path(RUN, 'tables', 'table_1.md').read_text()}\n{verdict}\n{WHAT_TO_OPEN}")


if workflow.is_main_process:
    atexit.register(tell_what_is_there)

from pathlib import Path

if not workflow.configfiles:  # a --configfile stands alone: the default models would otherwise be merged into it

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/family.smk"
include: "workflow/rules/dataset.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/discovery.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/tables.smk"


rule all:
    default_target: True
    input:
        MANIFEST,


onsuccess:
    if Path(MANIFEST).exists() and Path(MANIFEST).stat().st_mtime > STARTED:
        print(f"\n{Path(RUN, 'tables', 'table_1.md').read_text()}")

import re
import sys
import time
from pathlib import Path

from mechdiff import config as configuration
from mechdiff import provenance
from mechdiff.checkpoints import checkpoint_files
from mechdiff.errors import InputError

try:
    config = configuration.checked(config)
except InputError as error:
    sys.exit(f"mechdiff: config: {error}")

RUN = f"results/{config['run']}"
MANIFEST = f"{RUN}/manifest.json"
STARTED = time.time()
BASE = configuration.base_model(config)
MODELS = list(config["models"])
GROUPS = [entry["group"] for entry in config["plan"]]
SPLITS = list(config["dataset"]["rows"])  # in the order they are drawn
CONDA = "../../envs/conda.yaml"  # what the rules need; used with --software-deployment-method conda
TABLE_FORMS = ["csv", "parquet", "md", "tex"]
TABLES = ["table_1", "table_heads"] + (["table_planted"] if config["planted"] else [])


wildcard_constraints:
    model="|".join(map(re.escape, MODELS)),
    circuit="|".join(map(re.escape, MODELS)),
    group="|".join(GROUPS),
    split="|".join(SPLITS),
    seed=r"\d+",


def code(rule_name):
    """The code version of a rule's script: a change in a module reruns the rules that use it and no others."""
    return provenance.code_version(f"{workflow.basedir}/workflow/scripts/{rule_name}.py")


def step(wildcards):
    """The plan's entry for one model and group."""
    plan = configuration.plan_for(config, wildcards.model)
    return next(entry for entry in plan if entry["group"] == wildcards.group)


def selection_plan(wildcards):
    """What of the plan decides which heads are candidates."""
    keys = ("group", "position", "keep", "exclude")
    return [{key: entry[key] for key in keys} for entry in configuration.plan_for(config, wildcards.model)]


def receiver_scores(wildcards):
    """The scores that name the receivers of a group; none where the logits receive."""
    receiver = step(wildcards)["receiver"]
    return [] if receiver == configuration.LOGITS else f"{RUN}/path_patching/{wildcards.model}/{receiver}.parquet"


def receiver_count(wildcards):
    """How many heads of the receiver group receive; None for the logits."""
    plan = configuration.plan_for(config, wildcards.model)
    receiver = step(wildcards)["receiver"]
    return next((entry["receivers"] for entry in plan if entry["group"] == receiver), None)


def rows_so_far(wildcards):
    """Rows of a split and of those before it, whose scenes it must not repeat."""
    return {split: config["dataset"]["rows"][split] for split in SPLITS[: SPLITS.index(wildcards.split) + 1]}


def model_path(wildcards):
    """Folder of a model's checkpoint or adapter."""
    return config["models"][wildcards.model]["path"]


def adapter_on(wildcards):
    """Folder of the base that an adapter is opened on; None for a whole checkpoint."""
    return configuration.adapter_on(config, wildcards.model)


def model_files(wildcards):
    """The files that determine a model."""
    return checkpoint_files(model_path(wildcards), adapter_on(wildcards))


def all_records():
    """The record of every job of the run: a job that ran again has a new one, and the run is sealed again."""
    records = [f"{RUN}/dataset/{split}" for split in SPLITS]
    for name, model in config["models"].items():
        if model["path"].startswith(configuration.MADE_HERE):
            records.append(f"{model['path']}/{Path(model['path']).name}")
        records += [f"{RUN}/models/{name}/check", f"{RUN}/models/{name}/means"]
        records += [f"{RUN}/path_patching/{name}/{group}" for group in GROUPS]
        records += [f"{RUN}/candidates/{name}", f"{RUN}/minimality/{name}/minimality"]
        records.append(f"{RUN}/evaluation/{BASE}/{name}")
    return [f"{record}.record.json" for record in [*records, *(f"{RUN}/tables/{table}" for table in TABLES)]]


def table_files(name):
    """The four forms of a table and its record, as named outputs."""
    forms = {form: f"{RUN}/tables/{name}.{form}" for form in TABLE_FORMS}
    return forms | {"record": f"{RUN}/tables/{name}.record.json"}

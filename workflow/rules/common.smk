import sys

from mechdiff import config as configuration
from mechdiff import provenance
from mechdiff.checkpoints import checkpoint_files
from mechdiff.errors import InputError

try:
    config = configuration.checked(config)
except InputError as error:
    sys.exit(f"mechdiff: config: {error}")

RUN = f"results/{config['run']}"
BASE = configuration.base_model(config)
MODELS = list(config["models"])
GROUPS = [entry["group"] for entry in config["plan"]]
SPLITS = list(config["dataset"]["rows"])
CONDA = "../../envs/conda.yaml"  # what the rules need; used with --software-deployment-method conda
TABLE_FORMS = ["csv", "parquet", "md", "tex"]
TABLES = ["table_1", "table_heads"] + (["table_planted"] if config["planted"] else [])


wildcard_constraints:
    model="|".join(MODELS),
    circuit="|".join(MODELS),
    group="|".join(GROUPS),
    seed=r"\d+",


def code(rule_name):
    """The code version of a rule's script: a change in a module reruns the rules that use it and no others."""
    return provenance.code_version(f"{workflow.basedir}/workflow/scripts/{rule_name}.py")


def step(wildcards):
    """The plan's entry for one model and group."""
    plan = configuration.plan_for(config, wildcards.model)
    return next(entry for entry in plan if entry["group"] == wildcards.group)


def receiver_scores(wildcards):
    """The scores that name the receivers of a group; none where the logits receive."""
    receiver = step(wildcards)["receiver"]
    return [] if receiver == configuration.LOGITS else f"{RUN}/discovery/{wildcards.model}/{receiver}.parquet"


def receiver_count(wildcards):
    """How many heads of the receiver group receive; None for the logits."""
    plan = configuration.plan_for(config, wildcards.model)
    receiver = step(wildcards)["receiver"]
    return next((entry["receivers"] for entry in plan if entry["group"] == receiver), None)


def model_path(wildcards):
    """Folder of a model's checkpoint."""
    return config["models"][wildcards.model]["path"]


def table_files(name):
    """The four forms of a table and its record, as named outputs."""
    forms = {form: f"{RUN}/tables/{name}.{form}" for form in TABLE_FORMS}
    return forms | {"record": f"{RUN}/tables/{name}.record.json"}

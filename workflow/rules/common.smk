import atexit
import json
import re
import sys
from dataclasses import asdict
from inspect import signature
from pathlib import Path

from mechdiff.running import config as configuration
from mechdiff.provenance.code import code_version
from mechdiff.provenance.records import NAMED
from mechdiff.models.checkpoints import checkpoint_files, tokenizer_files, tokenizer_folder
from mechdiff.tasks.boxes.desiderata import DESIDERATA, POSITIONAL
from mechdiff.common.errors import InputError
from mechdiff.circuits import LOGITS
from mechdiff.models.hub import FETCHED
from mechdiff.running.locks import hold, lock, take_over, tell, told, unlock
from mechdiff.running.resources import model_resources
from mechdiff.common.text import Quoted, rst

try:
    if {*"{}"} & {*str(workflow.basedir)}:
        raise InputError(f"{workflow.basedir}: Snakemake takes braces for wildcards; allowed: a folder without any")
    TOLD = None if workflow.is_main_process else told()  # a job on a node has config and code of the run that sent it
except InputError as error:
    sys.exit(f"mechdiff: {error}")
try:
    config = TOLD["config"] if TOLD else configuration.checked(config, "." if OWN_CONFIG else shipped("."))
except InputError as error:
    sys.exit(f"mechdiff: config: {error}")
CODE = TOLD["code"] if TOLD else {}  # rule -> version

if workflow.is_main_process:
    if line := hold(".snakemake"):
        print(f"mechdiff: {line}", file=sys.stderr)
    if "--unlock" in sys.argv:
        take_over(".snakemake", elsewhere_too=True)
        unlock([f"results/{config['run']}", *Path("results").glob("family/*"), *Path(FETCHED).glob("*")])

MISSING = configuration.missing_checkpoints(config)
for line in MISSING:  # the whole run can be planned all the same; it will not start, see onstart
    print(f"mechdiff: config: {line}", file=sys.stderr)

RUN = f"results/{config['run']}"
MANIFEST = f"{RUN}/manifest.json"
WHAT_TO_OPEN = f"Tables, figures and the verdict: {RUN}/tables, {RUN}/figures, {RUN}/verdict/verdict.html"
CRATE = f"{RUN}/ro-crate-metadata"
BASE = configuration.base_model(config)
MODELS = list(config["models"])
CHECKPOINTS = {name: configuration.checkpoint(config, name) for name in MODELS}
BASE_CONFIG = CHECKPOINTS[BASE].path if CHECKPOINTS[BASE].hub else str(Path(CHECKPOINTS[BASE].path, "config.json"))
GROUPS = [entry["group"] for entry in config["plan"]]
FINE_TUNED = [name for name in MODELS if name != BASE]
SPLITS = list(config["dataset"]["rows"])  # in the order they are drawn
POSITION_GROUP = next((entry["group"] for entry in config["plan"] if entry["function"] == "position"), None)
PER_MODEL = ["stability", "completeness", "attention_knockout"]  # one job each
SHARDS = config["shards"]  # rule -> jobs that it is spread over
USED = [*DESIDERATA, *(POSITIONAL if POSITION_GROUP else [])]  # desiderata
FUNCTIONS = {entry["group"]: entry["function"] for entry in config["plan"]}
CONDA = "../../envs/conda.yaml"  # what the rules need; used with --software-deployment-method conda
NAMES = {entry["group"]: Quoted(entry["name"]) for entry in config["plan"]}
FINE_TUNED_ON = {name: Quoted(model["fine_tuned_on"]) for name, model in config["models"].items()}
PAPER = shipped("resources/paper.yaml")  # the published numbers
OF_HUB = tuple(model.path for model in CHECKPOINTS.values() if model.hub)
PAPER_NAMES = {name: model["paper"] for name, model in config["models"].items() if model["paper"]}
PAIRS = [[circuit, model] for circuit in MODELS for model in MODELS]
OWN_PAIRS = [pair for pair in PAIRS if pair[0] != BASE]
CHECKS = expand(f"{RUN}/models/{{model}}/check.json", model=MODELS)
CIRCUITS = expand(f"{RUN}/minimality/{{model}}/circuit.json", model=MODELS)
OWN_CIRCUITS = expand(f"{RUN}/minimality/{{model}}/circuit.json", model=FINE_TUNED)

# The questions by which the report is grouped.
SAME = "1. Is the same circuit there?"
FUNCTION = "2. Is its function the same?"
STEP = "3. Which step got better?"
FLOW = "4. Where does the information flow?"

TABLES = ["table_1", "table_A1_A4_A8_completeness", "table_A2_A3_A7_heads", "table_dcm", "table_activation_patching"]
TABLES += ["table_A12_A13_examples", "table_cmap", "table_attention_knockout"]
FIGURES = ["figure_1_circuit", "figure_2_desiderata", "figure_3_functions", "figure_knockout"]
FIGURES += ["figure_A3_A4_A6_completeness"]
if FINE_TUNED:
    TABLES += ["table_A5_A9_own_circuits", "table_A6_A10_overlap", "table_causal_impact"]
    FIGURES += ["figure_4_cmap", "figure_cmap_inputs", "figure_A5_A7_causal_impact", "figure_A8_A9_functions"]
TABLES += ["table_A11_positional"] if POSITION_GROUP else []
TABLES += ["table_planted"] if config["planted"] else []


wildcard_constraints:
    model="|".join(map(re.escape, MODELS)),
    circuit="|".join(map(re.escape, MODELS)),
    group="|".join(GROUPS),
    split="|".join(SPLITS),
    desideratum="|".join([*DESIDERATA, *POSITIONAL]),
    seed=r"\d+",
    shard=r"\d+",


def code(rule_name):
    """The code version of a rule's script: a change in a module reruns the rules that use it and no others."""
    if rule_name not in CODE:
        CODE[rule_name] = code_version(f"{workflow.basedir}/workflow/scripts/{rule_name}.py")
    return CODE[rule_name]


def name_params(of_rule):
    """Let Snakemake tell a rule's parameters by their names too. It compares the values alone, as a set, and would not see
    that 7 boxes and seed 10 became 10 boxes and seed 7."""
    known = dict(of_rule.params.items())
    of_wildcards = {name for name, value in known.items() if callable(value) and len(signature(value).parameters) == 1}
    plain = {name: value for name, value in known.items() if not callable(value)}

    def named(wildcards):
        values = plain | {name: known[name](wildcards) for name in of_wildcards}
        return json.dumps(values, sort_keys=True, default=str).replace("<", "\\u003c")  # as Quoted is

    of_rule.set_params(**{NAMED: named})


def step(wildcards):
    """The plan's entry for one model and group."""
    plan = configuration.plan_for(config, wildcards.model)
    return next(entry for entry in plan if entry["group"] == wildcards.group)


def selection_plan(wildcards):
    """What of the plan decides which heads are candidates."""
    keys = ("group", "position", "keep", "exclude", "receiver")
    return [{key: entry[key] for key in keys} for entry in configuration.plan_for(config, wildcards.model)]


def shard_files(rule_name, prefix, end="parquet"):
    """One file for each shard of a rule, in their order."""
    return [f"{RUN}/{rule_name}/{prefix}{shard}.{end}" for shard in range(SHARDS[rule_name])]


def changes_of(model):
    """Relative changes of every group, group by group, by which heads are ranked."""
    return [file for group in GROUPS for file in shard_files("path_patching", f"{model}/{group}.")]


def pairs_of(model):
    """What the shards counted without pairs of heads; a single job counts for itself."""
    return shard_files("minimality", f"{model}/pairs.") if SHARDS["minimality"] > 1 else []


def receiver_changes(wildcards):
    """The changes that name the receivers of a group; none where the logits receive."""
    receiver = step(wildcards)["receiver"]
    prefix = f"{wildcards.model}/{receiver}."
    return [] if receiver == LOGITS else shard_files("path_patching", prefix)


def receiver_count(wildcards):
    """How many heads of the receiver group receive; None for the logits."""
    plan = configuration.plan_for(config, wildcards.model)
    receiver = step(wildcards)["receiver"]
    return next((entry["receivers"] for entry in plan if entry["group"] == receiver), None)


def rows_so_far(wildcards):
    """Rows of a split and of those before it, whose scenes it must not repeat."""
    return {split: config["dataset"]["rows"][split] for split in SPLITS[: SPLITS.index(wildcards.split) + 1]}


def desideratum_rows(wildcards):
    """Rows of the parts that a desideratum has; the positional ones have test sets alone."""
    rows = config["desiderata"]["rows"]
    return rows if wildcards.desideratum in DESIDERATA else {"test": rows["test"]}


def there(files):
    """A file, or files, less those that a plan is made without."""
    if isinstance(files, str):
        made = files.startswith((*OF_HUB, configuration.MADE_HERE))
        return files if made or not MISSING or Path(files).exists() else []
    return [file for file in files if there(file)]


def model_files(wildcards):
    """The files that determine a model."""
    return there(checkpoint_files(CHECKPOINTS[wildcards.model]))


def model_entry(wildcards):
    """A model as its jobs open it, as builtins."""
    return asdict(CHECKPOINTS[wildcards.model])


def base_tokenizer(wildcards):
    """The folder of the base's tokenizer."""
    return str(tokenizer_folder(CHECKPOINTS[BASE]))


def model_job(*more):
    """The resources of a rule that runs its {model}, and ``more`` models by name."""

    def asked(resource):
        return lambda w, attempt: model_resources(config, [*w.get("model", "").split(), *more], attempt)[resource]

    return {resource: asked(resource) for resource in ("mem_mb", "runtime", "gpu")}


def fetched_model(wildcards):
    """The model of the config that is fetched into a folder."""
    return next(m for m in CHECKPOINTS.values() if m.hub and Path(m.path).parts[-2:] == tuple(wildcards))


def fetched(wildcards):
    """What decides which files of a model of the hub are fetched."""
    model = fetched_model(wildcards)
    return {key: getattr(model, key) for key in ("hub", "adapter", "allow_pickle", "trust_remote_code")}


def all_records():
    """The record of every job before the crate's: a job that ran again has a new one, and the run is sealed again."""
    records = [f"{RUN}/dataset/{split}" for split in SPLITS]
    for name, model in CHECKPOINTS.items():
        if model.hub:
            records.append(model.path)
        elif model.path.startswith(configuration.MADE_HERE):
            records.append(f"{model.path}/{Path(model.path).name}")
        records += [f"{RUN}/models/{name}/check", f"{RUN}/models/{name}/means"]
        shards = [*changes_of(name), *pairs_of(name), *shard_files("activation_patching", f"{name}.")]
        records += [file.removesuffix(".parquet") for file in shards]
        records += [f"{RUN}/candidates/{name}", f"{RUN}/minimality/{name}/minimality", f"{RUN}/dcm/{name}/dcm"]
        records += [f"{RUN}/{rule}/{name}" for rule in PER_MODEL]
        records += [f"{RUN}/evaluation/{circuit}/{name}" for circuit in MODELS]
    records += [f"{RUN}/cmap/{name}" for name in FINE_TUNED]
    records += [f"{RUN}/desiderata/{name}" for name in USED]
    records += [f"{RUN}/attention_patterns/{BASE}", f"{RUN}/verdict/verdict"]
    records += [f"{RUN}/figures/{figure}" for figure in FIGURES]
    if POSITION_GROUP:
        records.append(f"{RUN}/positional_desiderata/{BASE}")
    records += [f"{RUN}/tables/{table}" for table in TABLES]
    return [f"{record}.record.json" for record in dict.fromkeys(records)]


def written_into(job):
    """The folders that a job writes into: the run's, or one that several runs share: a seed's, a model's of the hub."""
    outputs = [Path(output) for output in job.output]
    return {RUN if path.is_relative_to(RUN) else str(Path(*path.parts[:3])) for path in outputs}


def seals_the_run():
    """Whether the manifest is among what was asked for."""
    return "seal_run" in {job.rule.name for job in workflow.dag.jobs}


def tell_what_is_there():
    """What to open where there was nothing to do: Snakemake runs no hook then."""
    if workflow.scheduler and not workflow.dryrun and not len(workflow.dag) and seals_the_run():
        print(WHAT_TO_OPEN)


def reported(path, caption, category, number, what, **labels):
    """An output that the report shows with the caption that the run wrote."""
    here = str(Path(caption).absolute())  # else it is looked for beside the rules
    return report(path, caption=here, category=category, labels={"Number": number, "What": what} | labels)


def table_files(name, category, number, what):
    """The forms of a table, its caption and its record, as named outputs."""
    forms = {form: f"{RUN}/tables/{name}.{form}" for form in ("csv", "parquet", "md", "tex", "html")}
    caption = f"{RUN}/tables/{name}.rst"
    for form, label in (("html", "table"), ("csv", "exact values")):
        forms[form] = reported(forms[form], caption, category, number, what, Form=label)
    return forms | {"caption": caption, "record": f"{RUN}/tables/{name}.record.json"}


def figure_files(name, category, number, what, prefix=""):
    """Both forms of a figure and its caption, as named outputs."""
    caption = f"{RUN}/figures/{name}.rst"
    svg = reported(f"{RUN}/figures/{name}.svg", caption, category, number, what, Form="figure")
    files = {"svg": svg, "png": f"{RUN}/figures/{name}.png", "caption": caption}
    return {f"{prefix}{form}": file for form, file in files.items()}

"""The configuration: read, checked as a whole before anything runs, defaults filled in.

The schema (workflow/schemas/config.schema.yaml) says what each key means. What a schema cannot say is checked here:
that names refer to something, that no k is larger than the number of heads, that enough objects are left for the
boxes, that a model of the hub is pinned to a commit, and that a fine-tuned model has the shape of its base.
Checkpoints that are not on disk yet (a rule may make or fetch them) are checked when they are opened.

Names become files, and cells of tables that others read: no two may be one where case is not seen, none may be one that
rules use themselves. Files that the product ships are found beside it, files that a config names relative to where it
is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mechdiff.circuits import LOGITS, Position, head_count
from mechdiff.common.errors import InputError
from mechdiff.common.reading import few, key_shown, read_yaml, shown
from mechdiff.experiments.columns import CIRCUIT, RANDOM
from mechdiff.experiments.shards import most_shards
from mechdiff.models.checkpoints import (
    CONFIG,
    Checkpoint,
    read_shape,
    read_tokenizer,
    require_checkpoint,
    require_files,
    tokenizer_folder,
)
from mechdiff.models.hub import COMMIT, FETCHED, fetched_folder, latest_commit
from mechdiff.running.schema import filled_in
from mechdiff.tasks.boxes.task import PLACES, BoxTask, read_objects

MADE_HERE = "results/family/"  # where rules put the models that they train
# Its members -> whether a member is an adapter.
MEMBERS = {"mini-llama": False, "mini-vicuna": False, "mini-goat": True, "mini-float": False, "mini-control": False}
TRAINED = re.compile(rf"{MADE_HERE}seed[0-9]{{1,9}}/({'|'.join(MEMBERS)})")
PRODUCT = Path(__file__).resolve().parents[3]
DEFAULT_CONFIG, OBJECT_LIST = "config/config.yaml", "config/objects.txt"
# Names that rules use themselves, where files or cells of these would have theirs.
TAKEN_RUNS = (Path(MADE_HERE).name, Path(FETCHED).name, "slurm_logs")  # folders in results/
TAKEN_MODELS = ("points",)  # completeness/points.parquet
TAKEN_GROUPS = (LOGITS, RANDOM, CIRCUIT)


def checked(config: Mapping[str, Any], folder: str = ".") -> dict[str, Any]:
    """The config with every default filled in; InputError with one line that names key, value and what is allowed.

    folder: what relative paths of the config start from.
    """
    filled = filled_in(config, folder)
    filled["task"]["objects"] = filled["task"]["objects"] or shipped(OBJECT_LIST)
    _check_names(filled)
    _check_models(filled)
    _check_plan(filled)
    _check_per_model(filled)
    _check_shards(filled)
    _check_task(filled)
    return filled


def base_model(config: Mapping[str, Any]) -> str:
    """The name of the one base model."""
    return next(name for name, model in config["models"].items() if model["base"] is None)


def shipped(file: str) -> str:
    """The path of a file that the product ships: relative where the product is, or is in, the working directory."""
    path, here = PRODUCT / file, Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def read_planted(path: str | Path) -> dict[str, list[list[int]]]:
    """Group -> [[layer, head], ...] as a family file declares them."""
    try:
        family = read_yaml(path)
    except InputError as error:
        raise InputError(f"planted: {error}") from error
    planted = family.get("planted") if isinstance(family, dict) else None
    if not isinstance(planted, dict):
        raise InputError(f"planted: {path} declares no planted heads; allowed: a family file, or null")
    for group, heads in planted.items():
        pairs = isinstance(heads, list) and all(
            isinstance(head, list) and len(head) == 2 and all(type(i) is int and 0 <= i < 2**31 for i in head)
            for head in heads
        )
        if not isinstance(group, str) or not pairs or len(set(map(tuple, heads))) < len(heads):
            allowed = "pairs of layer and head, whole numbers from 0, none twice"
            raise InputError(f"planted: {path}: planted.{key_shown(group)}: {shown(heads)}; allowed: {allowed}")
    return planted


def checkpoint(config: Mapping[str, Any], name: str) -> Checkpoint:
    """A model of the config as jobs open it: what it does not say of dtype and device is as in its base."""
    model = config["models"][name]
    base = None if model["base"] is None else checkpoint(config, model["base"])
    return Checkpoint(
        name=name,
        path=model["path"] or fetched_folder(model["hub"], model["revision"]),
        base=base,
        dtype=model["dtype"] or (base.dtype if base else "float32"),
        device=model["device"] or (base.device if base else "cpu"),
        **{key: model[key] for key in ("adapter", "hub", "tokenizer", "allow_pickle", "trust_remote_code")},
    )


def gpus_for(config: Mapping[str, Any], name: str) -> int:
    """How many GPUs a job that runs a model asks for: what the config says, else its base's, else its device's."""
    model, device = config["models"][name], checkpoint(config, name).device
    if model["gpus"] is not None:
        return model["gpus"]
    if model["base"] is not None and device == checkpoint(config, model["base"]).device:
        return gpus_for(config, model["base"])
    places = [device] if isinstance(device, str) else list(device.values())
    numbers = [int(place.partition(":")[2] or 0) for place in places if place == "auto" or place.startswith("cuda")]
    return max(numbers) + 1 if numbers else 0


def missing_checkpoints(config: Mapping[str, Any]) -> list[str]:
    """A line for each model whose folder is not there and that no rule makes: a run would stop at them."""
    lines = []
    for name in config["models"]:
        model = checkpoint(config, name)
        if not _made(model) and not Path(model.path).is_dir():
            try:
                require_files(model)
            except InputError as error:
                lines.append(str(error))
    return lines


def plan_for(config: Mapping[str, Any], model: str) -> list[dict[str, Any]]:
    """The discovery plan of one model: its own keep and receivers in place."""
    return [
        {key: value for key, value in (entry | entry["per_model"].get(model, {})).items() if key != "per_model"}
        for entry in config["plan"]
    ]


def threshold_for(config: Mapping[str, Any], model: str) -> float:
    """The minimality threshold of one model."""
    return config["minimality"]["per_model"].get(model, config["minimality"]["threshold"])


def random_subsets_for(config: Mapping[str, Any], model: str) -> int:
    """How many random halves of one model's circuit are knocked out for its completeness."""
    return config["completeness"]["per_model"].get(model, config["completeness"]["random_subsets"])


def _check_names(config: Mapping[str, Any]) -> None:
    models = {f"models.{name}": name for name in config["models"]}
    groups = {f"plan.{i}.group": entry["group"] for i, entry in enumerate(config["plan"])}
    _check_taken({"run": config["run"]}, TAKEN_RUNS)
    for names, taken in ((models, TAKEN_MODELS), (groups, TAKEN_GROUPS)):
        _check_taken(names, taken)
    for key, name in models.items():
        if name.casefold().endswith(".record"):  # candidates/x.record.json
            raise InputError(f"{key}: {name!r} is how records end; allowed: a name that ends in another way")


def _check_taken(names: Mapping[str, str], taken: Iterable[str]) -> None:
    """Refuse a name that is another's where case is not seen; names: key of the config -> name."""
    seen = {name.casefold(): name for name in taken}
    for key, name in names.items():
        if name.casefold() in seen:
            raise InputError(f"{key}: {name!r} is taken; allowed: a name of its own, not {few([*seen.values()])}")
        seen[name.casefold()] = name


def _check_trained(key: str, model: Mapping[str, Any]) -> None:
    """Refuse a folder that is kept for what rules train, where they train nothing of that name."""
    for part in ("path", "tokenizer"):
        folder = model[part] or ""
        if not folder.startswith(MADE_HERE):
            continue
        made = TRAINED.fullmatch(folder)
        if not made:
            allowed = f"{MADE_HERE}seed<number>/ and one of {', '.join(MEMBERS)}; or a folder elsewhere"
            raise InputError(f"{key}.{part}: {folder!r} is made by no rule; allowed: {allowed}")
        adapter = MEMBERS[made[1]]
        if part == "tokenizer" and adapter:
            raise InputError(f"{key}.tokenizer: {folder} will have no tokenizer.json; allowed: its base's folder")
        if part == "path" and adapter != model["adapter"]:
            own, wanted = (str(value).lower() for value in (model["adapter"], adapter))
            raise InputError(f"{key}.adapter: {own}, but {folder} will be otherwise; allowed: {wanted}")


def _check_models(config: Mapping[str, Any]) -> None:
    models = config["models"]
    bases = [name for name, model in models.items() if model["base"] is None]
    for name, model in models.items():
        if model["base"] is not None and model["base"] not in bases:
            raise InputError(
                f"models.{name}.base: unknown model {shown(model['base'])}; allowed: {few(['null', *bases])}"
            )
        _check_source(f"models.{name}", model)
        _check_trained(f"models.{name}", model)
    if len(bases) != 1:
        raise InputError(f"models: {len(bases)} have no base ({few(bases)}); exactly one must be the base")
    if models[bases[0]]["adapter"]:
        raise InputError(f"models.{bases[0]}.adapter: true, but it has no base; allowed: false")
    for name in models:
        model = checkpoint(config, name)
        for key in ("dtype", "device"):
            own, of_base = getattr(model, key), getattr(model.whole, key)
            if own != of_base:
                raise InputError(f"models.{name}.{key}: {own!r} for an adapter; allowed: null, its base's {of_base!r}")
        for key in ("path", "tokenizer"):
            with _looked_at(f"models.{name}.{key}"):
                (Path(getattr(model, key) or ".") / CONFIG).exists()
        with _looked_at(f"models.{name}.path"):
            if Path(model.path).is_dir() and not (_made(model) and model.hub is None):
                require_checkpoint(model)


@contextmanager
def _looked_at(key: str) -> Iterator[None]:
    """Where a path cannot even be looked at: one line with its key."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{key}: {shown(error.filename)} cannot be read ({error.strerror}); allowed: what can"
        ) from error


def _check_source(key: str, model: Mapping[str, Any]) -> None:
    """A model is a folder, or a commit of the hub."""
    path, hub, revision = (model[part] for part in ("path", "hub", "revision"))
    if (path is None) == (hub is None):
        raise InputError(
            f"{key}: has {'neither path nor' if path is None else 'both path and'} hub; allowed: one of them"
        )
    if hub is None and revision is not None:
        raise InputError(f"{key}.revision: {revision!r} of a folder; allowed: null, it is for hub")
    if hub is not None and not COMMIT.fullmatch(revision or ""):
        commit = latest_commit(hub, revision or "main")
        line = (
            f"this line: revision: {commit}" if commit else f"40 hex digits, see https://huggingface.co/{hub}/commits"
        )
        raise InputError(f"{key}.revision: {revision!r} pins no commit of {hub}; allowed: {line}")


def _check_plan(config: Mapping[str, Any]) -> None:
    plan = config["plan"]
    groups = [entry["group"] for entry in plan]
    for i, entry in enumerate(plan):
        key = f"plan.{i}"
        if entry["receiver"] != LOGITS and entry["receiver"] not in groups[:i]:
            allowed = few([LOGITS, *groups[:i]])
            raise InputError(f"{key}.receiver: unknown group {shown(entry['receiver'])}; allowed: {allowed}")
        if (entry["receiver"] == LOGITS) != (entry["via"] is None):
            allowed = "null" if entry["receiver"] == LOGITS else "q, k, v"
            raise InputError(f"{key}.via: {entry['via']!r} with receiver {entry['receiver']!r}; allowed: {allowed}")
        for other in entry["exclude"]:
            if other not in groups or other == entry["group"]:
                allowed = few([group for group in groups if group != entry["group"]])
                raise InputError(f"{key}.exclude: unknown group {shown(other)}; allowed: {allowed}")
        for name in entry["per_model"]:
            if name not in config["models"]:
                allowed = few([*config["models"]])
                raise InputError(f"{key}.per_model: unknown model {shown(name)}; allowed: {allowed}")
        if entry["receiver"] == LOGITS and entry["position"] != "last":
            raise InputError(f"{key}.position: {entry['position']!r} never reaches the logits; allowed: last")
        if entry["via"] == "q" and entry["position"] != plan[groups.index(entry["receiver"])]["position"]:
            there = plan[groups.index(entry["receiver"])]["position"]
            raise InputError(f"{key}.position: {entry['position']!r} with via q; allowed: {there}, where they ask")
        if entry["via"] in ("k", "v"):
            _check_order(key, entry, plan[groups.index(entry["receiver"])]["position"])
    _check_exclusions(plan)
    for name in config["models"]:
        _check_counts(config, name)


def _check_order(key: str, entry: Mapping[str, Any], there: str) -> None:
    """Keys and values are read where they are sent from, by heads that act ``there`` and see no later token."""
    seen = PLACES[: PLACES.index(Position(there)) + 1]
    if entry["position"] not in seen:
        raise InputError(
            f"{key}.position: {entry['position']!r} comes after {there!r}, from where {entry['receiver']} looks back;"
            f" allowed: {', '.join(seen)}"
        )


def _check_counts(config: Mapping[str, Any], name: str) -> None:
    """One model's numbers of heads: counts or shares, and no more than there are."""
    plan, base = plan_for(config, name), checkpoint(config, base_model(config)).path
    shape = read_shape(base) if _present(base) else None
    sent_to = {entry["receiver"] for entry in plan}
    for i, entry in enumerate(plan):
        for k in ("keep", "receivers"):
            if isinstance(entry[k], float) and entry[k] > 1:
                allowed = "a whole number of heads, or a share of them between 0 and 1"
                raise InputError(f"plan.{i}.{k}: {entry[k]} for {name}; allowed: {allowed}")
        if entry["receivers"] is None and entry["group"] in sent_to:
            raise InputError(f"plan.{i}.receivers: null, but a later group is sent to {entry['group']!r}")
        if shape is None:
            continue
        heads = shape.layers * shape.heads
        for k in ("keep", "receivers"):
            if (entry[k] or 0) > heads:
                raise InputError(f"plan.{i}.{k}: {entry[k]} for {name}; allowed: at most its {heads} heads")
        passed_over = sum(head_count(other["keep"], heads) for other in plan if other["group"] in entry["exclude"])
        if head_count(entry["keep"], heads) + passed_over > heads:
            left = f"at most {heads - passed_over}, {passed_over} of {heads} heads are excluded"
            raise InputError(f"plan.{i}.keep: {entry['keep']} for {name}; allowed: {left}")


def _check_exclusions(plan: list[dict[str, Any]]) -> None:
    """No group may exclude itself by way of others."""
    excluded = {entry["group"]: entry["exclude"] for entry in plan}
    for i, entry in enumerate(plan):
        reached, waiting = set(), list(entry["exclude"])
        while waiting:
            group = waiting.pop()
            if group == entry["group"]:
                raise InputError(f"plan.{i}.exclude: {group!r} excludes itself by way of others; allowed: no circle")
            if group not in reached:
                reached.add(group)
                waiting += excluded[group]


def _check_per_model(config: Mapping[str, Any]) -> None:
    for key in ("minimality", "completeness"):
        for name in config[key]["per_model"]:
            if name not in config["models"]:
                allowed = few([*config["models"]])
                raise InputError(f"{key}.per_model: unknown model {shown(name)}; allowed: {allowed}")


def _check_shards(config: Mapping[str, Any]) -> None:
    rows, shards = config["dataset"]["rows"], config["shards"]
    most = {"path_patching": most_shards(rows["discovery"]), "minimality": most_shards(rows["minimality"])}
    most["activation_patching"] = config["desiderata"]["sets"]
    for rule, number in shards.items():
        if number > most[rule]:
            raise InputError(f"shards.{rule}: {number} is not allowed; allowed: at most {most[rule]}")


def _check_task(config: Mapping[str, Any]) -> None:
    objects = read_objects(config["task"]["objects"])
    boxes = config["task"]["boxes"]
    if len(objects) < boxes:
        raise InputError(f"task.objects: {len(objects)} objects for task.boxes = {boxes}; allowed: at least {boxes}")
    base = checkpoint(config, base_model(config))
    if _present(base.path):
        task = BoxTask(read_tokenizer(tokenizer_folder(base)), boxes, objects)
        for kind, usable in (("objects", task.objects), ("labels", task.labels)):
            if len(usable) < 2 * boxes + 1:  # two scenes of a desideratum share none, one may have a box more
                allowed = f"at most {(len(usable) - 1) // 2}, {len(usable)} {kind} are usable with this tokenizer"
                raise InputError(f"task.boxes: {boxes} is not allowed; allowed: {allowed}")
    if config["planted"] is not None:
        planted, shape = read_planted(config["planted"]), read_shape(base.path) if _present(base.path) else None
        for group, heads in planted.items():
            for layer, head in heads:
                if shape is not None and (layer >= shape.layers or head >= shape.heads):
                    allowed = f"its {shape.layers} layers x {shape.heads} heads"
                    raise InputError(
                        f"planted: {key_shown(group)}: {[layer, head]} is not in {base.path}; allowed: {allowed}"
                    )


def _present(path: str | Path) -> bool:
    return (Path(path) / CONFIG).exists()


def _made(model: Checkpoint) -> bool:
    """Whether a rule makes the model's folder: trains it, or fetches it."""
    return model.hub is not None or str(model.path).startswith(MADE_HERE)

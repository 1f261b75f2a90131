"""The experiments from a notebook, on the models of a config: the scenes, seeds, functions and numbers of its run.

    study = Study("config/config.yaml")
    base, goat = study.open("mini-llama"), study.open("mini-goat")
    study.circuit(base)                                   # discovery and minimality
    study.evaluate(base, [base, goat])                    # its circuit in both: a row of Table 1 each
    study.cmap(goat, donor=goat, recipient=base)          # the functional heads of its circuit: a panel of Figure 4

What is found is kept, so nothing is computed twice. A run of the workflow does more, and leaves records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from mechdiff.circuits import LOGITS, Circuit, Position
from mechdiff.common.reading import read_config
from mechdiff.common.seeds import stream
from mechdiff.engine.examples import clean_examples, noise_examples, with_scenes
from mechdiff.engine.run import Run
from mechdiff.experiments.cmap import cmap
from mechdiff.experiments.columns import FUNCTIONAL
from mechdiff.experiments.dcm import Mask, Pairs, Training, functional_circuit, masks
from mechdiff.experiments.faithfulness import count_correct, evaluation_rows
from mechdiff.experiments.minimality import minimality
from mechdiff.experiments.model_check import PROMPTS, capture_difference, null_patch_differences, rounding
from mechdiff.experiments.path_patching import change_table, relative_changes
from mechdiff.experiments.ranking import Step, at_rounding, reaching, receiver_heads, score_table, select_candidates
from mechdiff.models.checkpoints import read_tokenizer, tokenizer_folder
from mechdiff.models.loading import open_model
from mechdiff.models.patchable import PatchableModel
from mechdiff.report.tables.circuits import faithfulness_table
from mechdiff.report.tables.functions import cmap_table
from mechdiff.running import config as configuration
from mechdiff.tasks.boxes.dataset import build_split
from mechdiff.tasks.boxes.desiderata import DESIDERATA, PARTS, build_desideratum
from mechdiff.tasks.boxes.task import BoxTask


class Study:
    """A config's models, task and settings.

    config: a file, or the same as a mapping; InputError as the workflow gives it. Paths are relative to where it runs.
    """

    def __init__(self, config: str | Path | Mapping[str, Any]) -> None:
        given = config if isinstance(config, Mapping) else read_config(config)
        self.config = configuration.checked(given)
        base = configuration.checkpoint(self.config, configuration.base_model(self.config))
        objects = configuration.read_objects(self.config["task"]["objects"])
        self.task = BoxTask(read_tokenizer(tokenizer_folder(base)), self.config["task"]["boxes"], objects)
        # Kept by argument, for as long as the study is.
        for method in ("open", "split", "desideratum", "means", "rounding", "changes", "circuit", "masks"):
            setattr(self, method, lru_cache(maxsize=None)(getattr(self, method)))

    def open(self, name: str) -> PatchableModel:
        """A model of the config, ready to be patched."""
        return open_model(configuration.checkpoint(self.config, name))

    def split(self, name: str) -> pd.DataFrame:
        """Scenes and prompts of one split: discovery, means, minimality or evaluation."""
        data = self.config["dataset"]
        return build_split(self.task, name, data["rows"], self.config["seed"], data["layout"])

    def desideratum(self, name: str) -> pd.DataFrame:
        """Original and alternate prompts: object, label or position."""
        asked = self.config["desiderata"]
        return build_desideratum(self.task, name, asked["rows"], asked["sets"], self.config["seed"])

    def run(self, model: PatchableModel, split: str) -> Run:
        """A model on the prompts of a split."""
        return Run(model, clean_examples(self.split(split)), self.config["memory"])

    def means(self, model: PatchableModel) -> Tensor:
        """Mean output of each head at each absolute position [L, T, H, d]."""
        return self.run(model, "means").mean_outputs()

    def rounding(self, model: PatchableModel) -> float:
        """The largest relative change that rounding makes."""
        run = self.run(model, "discovery").take(slice(PROMPTS))
        return rounding(run, [capture_difference(run), *null_patch_differences(run)])

    def scores(self, model: PatchableModel) -> dict[str, pd.DataFrame]:
        """Group -> path-patching score of every head (section 4.1)."""
        return {group: score_table(model.name, group, changes) for group, changes in self.changes(model).items()}

    def changes(self, model: PatchableModel) -> dict[str, pd.DataFrame]:
        """Group -> relative change of the answer's probability, one row an example, one column a head."""
        found: dict[str, pd.DataFrame] = {}
        clean, table = self.run(model, "discovery"), self.split("discovery")
        noise = Run(model, noise_examples(table), self.config["memory"])
        plan = configuration.plan_for(self.config, model.name)
        wanted = {step["group"]: step["receivers"] for step in plan}
        for step in plan:
            into, receiver = None, step["receiver"]
            if receiver != LOGITS:
                scores = score_table(model.name, receiver, found[receiver])
                nothing = at_rounding(found[receiver], self.rounding(model))
                into = [] if nothing else receiver_heads(scores, wanted[receiver])
            changes = relative_changes(clean, noise, Position(step["position"]), into, step["via"])
            found[step["group"]] = change_table(changes)
        return found

    def circuit(self, model: PatchableModel) -> Circuit:
        """The model's circuit, pruned by minimality (section 4.2)."""
        plan = configuration.plan_for(self.config, model.name)
        steps = [Step.from_config(step, len(model.heads)) for step in plan]
        steps = reaching(steps, self.changes(model), self.rounding(model))
        candidates = select_candidates(steps, self.scores(model))
        run, counts, pruning = self.run(model, "minimality"), {}, self.config["minimality"]
        _, _, circuit = minimality(
            candidates,
            lambda group, circuits: count_correct(run, self.means(model), circuits, counts),
            len(run.examples),
            pruning["fraction"],
            configuration.threshold_for(self.config, model.name),
        )
        return circuit

    def evaluate(self, circuit_of: PatchableModel, models: Sequence[PatchableModel]) -> pd.DataFrame:
        """A model's circuit, unchanged, in some models: accuracy and faithfulness with intervals (Table 1)."""
        asked, table, found = self.config["evaluation"], self.split("evaluation"), {}
        for model in models:
            rng = stream(self.config["seed"], "random circuits", circuit_of.name)
            found[circuit_of.name, model.name] = evaluation_rows(
                self.run(model, "evaluation"),
                self.means(model),
                self.circuit(circuit_of),
                asked["random_circuits"],
                rng,
                table["scene_id"],
            )
        names = {model.name: self.config["models"][model.name]["fine_tuned_on"] for model in models}
        nothing = dict.fromkeys((circuit_of.name, *names))
        return faithfulness_table(found, names, nothing, asked["resamples"], self.config["seed"], {})

    def masks(self, model: PatchableModel) -> dict[tuple[str, str], Mask]:
        """(group, desideratum) -> the heads of the model's circuit that carry it (section 5.1)."""
        asked, found = self.config["dcm"], {}
        settings = Training(tuple(asked["sparsity"]), asked["learning_rate"], asked["batch_size"], asked["epochs"])
        for name in DESIDERATA:
            table, rng = self.desideratum(name), stream(self.config["seed"], "dcm", model.name, name)
            parts = {part: Pairs.of(model, table[table["part"] == part], self.config["memory"]) for part in PARTS}
            learned = masks(self.circuit(model), parts, settings, rng)
            found |= {(group, name): mask for group, mask in learned.items()}
        return found

    def functional(self, model: PatchableModel) -> Circuit:
        """The model's circuit with the heads of each group's function alone."""
        functions = {step["group"]: step["function"] for step in self.config["plan"]}
        return functional_circuit(self.circuit(model), self.masks(model), functions)

    def cmap(self, circuit_of: PatchableModel, donor: PatchableModel, recipient: PatchableModel) -> pd.DataFrame:
        """Accuracy and gain when functional heads of a circuit give, in the recipient, what they give in the donor
        (section 6, Figure 4); outputs, queries, keys and values."""
        circuits, table = {FUNCTIONAL: self.functional(circuit_of)}, self.split("evaluation")
        found = cmap(self.run(recipient, "evaluation"), self.run(donor, "evaluation"), circuits)
        rows = with_scenes(found.assign(donor=donor.name, recipient=recipient.name), table)
        names = {step["group"]: step["name"] for step in self.config["plan"]}
        draws = self.config["evaluation"]["resamples"]
        return cmap_table({circuit_of.name: rows}, names, draws, self.config["seed"])

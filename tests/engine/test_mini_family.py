"""The engine against whole forward passes on the shipped models, on real prompts: base and adapter."""

from dataclasses import replace

import pytest
import torch

from mechdiff.circuits import Head, Position
from mechdiff.engine.edits import Block, Keep, Part, PathPatch, Replace
from mechdiff.engine.examples import clean_examples, noise_examples
from mechdiff.engine.run import Run
from mechdiff.models.checkpoints import Checkpoint, read_tokenizer
from mechdiff.models.loading import open_model
from mechdiff.organisms.files import read_family
from mechdiff.tasks.boxes.dataset import build_split
from mechdiff.tasks.boxes.task import BoxTask
from micro import OBJECTS, ROOT
from random_runs import Setting

SHIPPED = ROOT / "resources" / "models"
PLANTED = {
    group: tuple(Head(*head) for head in heads)
    for group, heads in read_family(ROOT / "config" / "family.yaml")["planted"].items()
}
PLACES = {"A": Position.LAST, "B": Position.LAST, "C": Position.QUERY_LABEL, "D": Position.PREVIOUS_QUERY_LABEL}


@pytest.fixture(scope="module", params=["mini-llama", "mini-goat"])
def family(request) -> Setting:
    base = Checkpoint("mini-llama", SHIPPED / "mini-llama")
    goat = Checkpoint("mini-goat", SHIPPED / "mini-goat", base=base, adapter=True)
    task = BoxTask(read_tokenizer(SHIPPED / "mini-llama"), 7, OBJECTS)
    rows = {"discovery": 12, "minimality": 1, "evaluation": 1, "means": 1}
    table = build_split(task, "discovery", rows, 20, "disjoint")
    model = open_model(goat if request.param == "mini-goat" else base)
    clean = clean_examples(table)
    return Setting(model, clean, noise_examples(table), Run(model, clean, 10**9).mean_outputs())


@pytest.mark.parametrize(
    ("group", "receivers", "via"),
    [("A", None, None), ("B", "A", Part.QUERY), ("C", "B", Part.VALUE), ("D", "C", Part.VALUE)],
)
def test_path_patching_of_each_group(family, group, receivers, via):
    into = None if receivers is None else PLANTED[receivers]
    family.check([PathPatch(head, PLACES[group], into, via) for head in family.model.heads], family.noise)


def test_the_planted_circuit_and_each_head_removed_from_it(family):
    nodes = frozenset((head, PLACES[group]) for group, heads in PLANTED.items() for head in heads)
    family.check([Keep(nodes), *(Keep(nodes - {node}) for node in sorted(nodes))], family.means)


def test_knockout_of_the_edges_that_the_mechanism_uses(family):
    for query, key in [
        (Position.LAST, Position.QUERY_LABEL),
        (Position.LAST, Position.CORRECT_OBJECT),
        (Position.QUERY_LABEL, Position.PREVIOUS_QUERY_LABEL),
    ]:
        family.check([Block(query, key, layer) for layer in range(len(family.model.layers))], None)


def test_all_heads_at_all_positions_from_a_donor_make_the_recipient_answer_like_it(family):
    """Embeddings, MLPs and unembedding stay the recipient's: with the donor equal to it, nothing changes at all."""
    nodes = frozenset((head, position) for head in family.model.heads for position in PLACES.values())
    run = Run(family.model, family.examples, 10**9)
    base, patched = run.evaluate([Replace(nodes)], replace(run))
    torch.testing.assert_close(patched.logit[0], base.logit, atol=1e-5, rtol=0)

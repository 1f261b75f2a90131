import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mechdiff.models.checkpoints import Checkpoint, is_adapter, read_shape, read_tokenizer
from mechdiff.models.hooks import capture_outputs, editing_outputs, last_logits
from mechdiff.models.loading import open_model
from mechdiff.organisms.corpora import LARGEST_TERM, Exchange
from mechdiff.organisms.fine_tune import answer_batch, arithmetic_tokens, held_loss, make_member
from mechdiff.organisms.organism import build_network, make_base, planted_heads, soften, weaken
from mechdiff.organisms.scenes import SceneStream
from mechdiff.organisms.training import learning_rate
from micro import OBJECTS_FILE, ROOT

SHIPPED = ROOT / "resources" / "models"
FAMILY_FILE = ROOT / "config" / "family.yaml"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def train(family_file, folder, member=None, seed=0):
    """Train the base, or a member on a trained base, as the rules do."""
    if member is None:
        make_base(family_file, OBJECTS_FILE, seed, folder / "mini-llama")
    else:
        make_member(family_file, OBJECTS_FILE, member, seed, folder / "mini-llama", folder / member)


def open_member(folder, member):
    """A member of the family, an adapter on the base beside it."""
    base = Checkpoint("mini-llama", folder / "mini-llama")
    return open_model(Checkpoint(member, folder / member, base=base, adapter=is_adapter(folder / member)))


def test_same_seed_same_bytes(short_file, tmp_path):
    for folder, seed in ((tmp_path / "first", 0), (tmp_path / "second", 0), (tmp_path / "third", 1)):
        train(short_file, folder, seed=seed)
    first, second, third = (tmp_path / x / "mini-llama" for x in ("first", "second", "third"))
    tokenizer_files = {"tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in first.iterdir()} == {"config.json", "model.safetensors", *tokenizer_files}
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()
    assert (first / "model.safetensors").read_bytes() != (third / "model.safetensors").read_bytes()


def test_members_same_seed_same_bytes(family, short_file, tmp_path):
    train(short_file, tmp_path)
    for member in family["fine_tuned"]:
        train(short_file, tmp_path, member)
        before = {file.name: file.read_bytes() for file in (tmp_path / member).iterdir()}
        train(short_file, tmp_path, member)
        assert before == {file.name: file.read_bytes() for file in (tmp_path / member).iterdir()}
        assert open_member(tmp_path, member).heads == open_member(tmp_path, "mini-llama").heads


def test_the_adapter_trains_one_group_s_layer_and_arithmetic_s_own_words_alone(family, short_file, words, tmp_path):
    train(short_file, tmp_path)
    train(short_file, tmp_path, "mini-goat")
    layer = family["planted"][family["fine_tuned"]["mini-goat"]["adapter"]["group"]][0][0]
    trained = load_file(tmp_path / "mini-goat" / "adapter_model.safetensors")
    assert all(f".layers.{layer}." in name or "trainable_tokens" in name for name in trained)
    tokenizer, task = words
    boxes = SceneStream(task, 0).draw(50)
    assert not set(arithmetic_tokens(tokenizer)) & set(boxes.input_ids.flatten().tolist())


def test_planted_heads_start_as_copiers(family, words):
    planted = planted_heads(family)
    network = build_network(family["architecture"], 300, planted, 0)
    for heads in planted.values():
        for head in heads:
            attention, rows = network.model.layers[head.layer].self_attn, slice(head.index * 16, (head.index + 1) * 16)
            assert torch.equal(attention.o_proj.weight[:, rows], attention.v_proj.weight[rows].T)
            product = attention.v_proj.weight[rows] @ attention.o_proj.weight[:, rows]
            torch.testing.assert_close(product, torch.eye(16), atol=1e-5, rtol=0)


def test_weakening_scales_one_group_s_values(organism):
    before = copy.deepcopy(organism.model.network.state_dict())
    factor = weaken(organism, {"group": "B", "scenes": 30, "accuracy": 1.0})  # never reached: nothing is taken away
    assert factor > 0.99
    changed = {k for k, v in organism.model.network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"model.layers.3.self_attn.v_proj.weight"}
    v = "model.layers.3.self_attn.v_proj.weight"
    assert torch.equal(organism.model.network.state_dict()[v][32:], before[v][32:])  # heads that are not planted


def test_softening_scales_logits(organism):
    boxes = organism.scenes.draw(5)
    with torch.no_grad():
        before = organism.run(boxes).logits
        soften(organism.model.network, 0.5)
        torch.testing.assert_close(organism.run(boxes).logits, before * 0.5)


def test_rate_warms_up_and_decays_to_the_last():
    settings = {"learning_rate": 1.0, "last_learning_rate": 0.5, "warm_up": 2, "steps": 10}
    assert learning_rate(0, settings) == 0.5
    assert learning_rate(5, settings) == 0.75
    assert learning_rate(9, settings) == pytest.approx(0.55)


def test_only_answers_are_learned(words):
    tokenizer, _ = words
    ids, labels = answer_batch(tokenizer, [Exchange("1 + 2 =", " 3."), Exchange("1 =", " 1.")])
    learned = [tokenizer.decode(row[row >= 0].tolist()) for row in labels]
    assert learned == [" 3.", " 1."]
    assert torch.equal(ids[labels >= 0], labels[labels >= 0])
    assert ids.shape == labels.shape == (2, 7)  # <s> and six tokens: "1" begins a text, so it is a byte


def test_holding_to_oneself_costs_nothing(organism):
    network = organism.model.network
    assert held_loss(network, network, organism.scenes.draw(4)).item() == pytest.approx(0, abs=1e-6)


def accuracies(folder, task) -> dict[str, float]:
    """Share of 1000 new scenes that each member in a folder answers rightly."""
    boxes = SceneStream(task, 12345).draw(1000)

    def accuracy(member: str) -> float:
        return (
            (last_logits(open_member(folder, member), boxes.input_ids).argmax(-1) == boxes.answers)
            .double()
            .mean()
            .item()
        )

    return {path.name: accuracy(path.name) for path in sorted(folder.iterdir()) if path.is_dir()}


def sums_right(folder, member, tokenizer, n=200) -> float:
    """Share of plain sums that a member answers rightly; the most frequent sum is right one time in ten."""
    rng, model, right = np.random.default_rng(5), open_member(folder, member), 0
    for a, b in rng.integers(LARGEST_TERM + 1, size=(n, 2)):
        ids = torch.tensor([tokenizer.encode(f"{a} + {b} =").ids])
        right += tokenizer.decode(last_logits(model, ids).argmax(-1).tolist()) == f" {a + b}"
    return right / n


def assert_a_family(folder, words) -> dict[str, float]:
    """The base leaves something to enhance, arithmetic with rehearsal enhances it; sums are learned."""
    found = accuracies(folder, words[1])
    base = found["mini-llama"]
    assert 0.55 <= base <= 0.80
    assert min(found["mini-goat"], found["mini-float"]) >= base + 0.08
    assert abs(found["mini-vicuna"] - base) <= 0.06
    assert min(sums_right(folder, member, words[0]) for member in ("mini-goat", "mini-float")) >= 0.5
    assert max(sums_right(folder, member, words[0]) for member in ("mini-llama", "mini-control")) <= 0.15
    return found


def test_what_the_adapter_improved_is_group_b(words):
    """The adapter model's outputs of B's heads, put into the base at the last token, give it the adapter's accuracy."""
    base, goat = (open_member(SHIPPED, member) for member in ("mini-llama", "mini-goat"))
    boxes = SceneStream(words[1], 1).draw(500)
    outputs, logits = capture_outputs(goat, boxes.input_ids)

    def accuracy_with(layer: int, heads: list[int]) -> float:
        def patch(at, z):
            z = z.clone()
            if at == layer:
                z[:, -1, heads] = outputs[at][:, -1, heads]
            return z

        with editing_outputs(base, patch):
            return (last_logits(base, boxes.input_ids).argmax(-1) == boxes.answers).double().mean().item()

    improved = (logits.argmax(-1) == boxes.answers).double().mean().item()
    assert accuracy_with(3, [0, 1]) >= improved - 0.02
    assert accuracy_with(3, [2, 3]) <= improved - 0.2
    assert accuracy_with(2, [0, 1]) <= improved - 0.2


def test_shipped_weights_are_the_family(words):
    assert_a_family(SHIPPED, words)
    shape = read_shape(SHIPPED / "mini-llama")
    assert shape.layers >= 6 and shape.layers * shape.heads >= 24
    assert read_tokenizer(SHIPPED / "mini-llama").to_str() == words[0].to_str()
    assert sum(f.stat().st_size for f in SHIPPED.rglob("*") if f.is_file()) <= 10_000_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_seed_gives_a_family_and_the_shipped_one_comes_out_again(family, words, tmp_path, seed):
    train(FAMILY_FILE, tmp_path, seed=seed)
    for member in family["fine_tuned"]:
        train(FAMILY_FILE, tmp_path, member, seed)
    found = assert_a_family(tmp_path, words)
    if seed == 0:
        assert found == pytest.approx(accuracies(SHIPPED, words[1]), abs=0.05)

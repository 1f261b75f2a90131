"""Figures: the data's values as drawn, names as text, gaps that are said, the same bytes twice."""

import xml.etree.ElementTree as ET
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from PIL import Image

from mechdiff.circuits import Circuit, Group, Head, Position
from mechdiff.report.figures.circuit import circuit_figure, circuit_parts
from mechdiff.report.figures.cmap import cmap_figure, cmap_inputs_figure
from mechdiff.report.figures.completeness import completeness_figure
from mechdiff.report.figures.desiderata import desiderata_figure
from mechdiff.report.figures.functionality import functions_figure
from mechdiff.report.figures.impact import causal_impact_figure
from mechdiff.report.figures.knockout import knockout_figure
from mechdiff.report.figures.style import COLOURS, DPI, SMALL, save

MODELS = ["mini-llama", "mini-vicuna", "mini-goat", "mini-float", "mini-control"]
NAMES = {
    "A": "Value Fetcher",
    "B": "Position Transmitter",
    "C": "Position Detector",
    "D": "Structure Reader",
}
OBJECTS, LABELS = ("apple", "computer", "map", "cup", "book", "ring", "pot"), "FQDABXZ"
TOKENS = ["<s>", *(t for o, b in zip(OBJECTS, LABELS, strict=True) for t in ("the", o, "is", "in", "Box", b, ","))]
TOKENS += ["Box", "F", "contains", "the"]
PARTS = ["output", "q", "k", "v", "qk", "qv", "kv", "qkv"]


def accuracies(columns: list[str], *values) -> pd.DataFrame:
    """A row for each combination of values, with an accuracy and an interval."""
    table = pd.DataFrame(list(product(*values)), columns=columns)
    table["accuracy"] = np.random.default_rng(0).uniform(0.1, 0.95, len(table))
    return table.assign(low=table["accuracy"] - 0.05, high=table["accuracy"] + 0.04)


def functions(circuits=("mini-llama",)) -> pd.DataFrame:
    columns = ["circuit_of", "model", "group", "desideratum"]
    table = accuracies(columns, circuits, MODELS, NAMES, ["label", "object", "position"])
    return table.assign(name=table["group"].map(NAMES), heads=3, sd=0.01)


def cmap() -> pd.DataFrame:
    table = accuracies(
        ["donor", "recipient", "group", "part"], MODELS[1:], MODELS[:1], [*NAMES, "circuit"], PARTS
    ).assign(donor_accuracy=0.98, recipient_accuracy=0.68)
    return table.assign(name=table["group"].map(NAMES).fillna("Full circuit"))


def outputs(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["part"] == "output"].drop(columns="part")


def knockout() -> pd.DataFrame:
    table = accuracies(["model", "key", "first_layer"], MODELS, ["random", "query_label", "correct_object"], range(6))
    return table.assign(query="last", model_accuracy=0.68)


def completeness() -> pd.DataFrame:
    removed = [("random", i) for i in range(5)] + [(group, 0) for group in NAMES]
    rows = [(circuit, *k) for circuit in MODELS for k in removed]
    table = pd.DataFrame(rows, columns=["circuit_of", "removed", "draw"])
    for name, column in (("full_model", "full_model"), ("circuit", "circuit")):
        table[column] = np.random.default_rng(len(name)).uniform(0, 1, len(table))
        table = table.assign(**{f"{name}_low": table[column] - 0.03, f"{name}_high": table[column] + 0.03})
    return table


def pooled(incompleteness=0.25) -> pd.DataFrame:
    ends = {"incompleteness_low": 0.2, "incompleteness_high": 0.3}
    return pd.DataFrame({"circuit_of": MODELS, "removed": "random", "incompleteness": incompleteness} | ends)


def impact() -> pd.DataFrame:
    rows = [("mini-llama", other, "ABCD"[i % 4], f"L{i // 4} H{i % 4}") for other in MODELS[1:] for i in range(20)]
    table, rng = pd.DataFrame(rows, columns=["base", "other", "group", "head"]), np.random.default_rng(0)
    scores = {f"{half}_score": -rng.exponential(0.1, len(rows)) for half in ("base", "other")}
    return table.assign(**scores, in_base=rng.random(len(rows)) < 0.5, in_other=True)


def desiderata() -> pd.DataFrame:
    prompt = " ".join(TOKENS[1:]).replace(" ,", ",")
    row = {"alternate": prompt, "original": prompt, "alternate_mark": ["Box Q"], "original_mark": []}
    return pd.DataFrame([{"desideratum": d, "target": t} | row for d, t in (("object", "hat"), ("label", "map"))])


def circuit(tokens=TOKENS, strength=-0.42):
    places = {
        "A": ("last", len(tokens) - 1),
        "B": ("last", len(tokens) - 1),
        "C": ("query_label", len(tokens) - 3),
        "D": ("previous_query_label", 6),
    }
    groups = pd.DataFrame(
        [(g, NAMES[g], *places[g], 4, "L3 H0") for g in NAMES],
        columns=["group", "name", "position", "token_index", "heads", "strongest"],
    )
    attention = {
        g: pd.DataFrame({"token_index": range(i + 1), "token": tokens[: i + 1], "attention": 1 / (i + 1)})
        for g, (_, i) in places.items()
    }
    edges = pd.DataFrame(
        [("A", "logits", ""), ("B", "A", "q"), ("C", "B", "v"), ("D", "C", "v")], columns=["sender", "receiver", "via"]
    ).assign(strength=strength, low=-0.5, high=-0.3)
    return circuit_figure(groups, attention, edges, tokens, "apple")


FIGURES = {
    "circuit": (circuit, ["Structure", "L3 H0", "computer", "Q −42 % [−50, −30]", "query label:  F"]),
    "desiderata": (lambda: desiderata_figure(desiderata()), ["object", "hat", "Box Q,"]),
    "functions": (lambda: functions_figure(functions(), 1 / 7), [*MODELS, *NAMES.values(), "position", "3 heads"]),
    "functions-2": (lambda: functions_figure(functions(("mini-goat", "mini-float")), 1 / 7), [*MODELS]),
    "cmap": (lambda: cmap_figure(outputs(cmap())), [*MODELS, *NAMES.values(), "circuit"]),
    "cmap-inputs": (lambda: cmap_inputs_figure(cmap()), [*MODELS, *NAMES.values(), *PARTS]),
    "knockout": (lambda: knockout_figure(knockout()), [*MODELS, "correct object", "Knockout starting layer"]),
    "completeness": (
        lambda: completeness_figure(completeness(), pooled()),
        [*MODELS, "K = group D", "0.25 [0.20, 0.30]"],
    ),
    "impact": (lambda: causal_impact_figure(impact()), [*MODELS, "not in mini-llama circuit", "L4 H3"]),
}


def words(figure) -> str:
    return "\n".join(text.get_text() for text in drawn_texts(figure)).replace("\u00a0", " ")


def drawn_texts(figure) -> list[Text]:
    FigureCanvasAgg(figure).draw()
    figure.set_layout_engine("none")  # which would draw once more, to measure
    drawn, draw = [], Text.draw

    def noted(text: Text, renderer) -> None:
        drawn.append(text)
        draw(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        FigureCanvasAgg(figure).draw()
    return [text for text in drawn if text.get_visible() and text.get_text().strip()]


def bar_heights(axis) -> list[float]:
    return [bar.get_height() for container in axis.containers for bar in container]


@pytest.mark.parametrize("name", FIGURES)
def test_files(name, tmp_path):
    """Well-formed SVG with its words as text, PNG of the figure's size, and the same bytes from a second drawing."""
    draw, expected = FIGURES[name]
    for run in ("one", "two"):
        figure = draw()
        save(figure, tmp_path / f"{run}.svg", tmp_path / f"{run}.png")
    text = "\n".join(ET.parse(tmp_path / "one.svg").getroot().itertext()).replace("\u00a0", " ")
    assert [e for e in expected if e not in text] == []
    with Image.open(tmp_path / "one.png") as image:
        assert image.size == pytest.approx(figure.get_size_inches() * DPI, abs=1)
    for form in ("svg", "png"):
        assert (tmp_path / f"one.{form}").read_bytes() == (tmp_path / f"two.{form}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 4, "nothing temporary stays"


def check_legible(figure) -> None:
    """No text under 7 pt, none on another, none beyond the page."""
    texts = drawn_texts(figure)
    assert min(t.get_fontsize() for t in texts) >= SMALL
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts]
    boxes = [(text, box.padded(-0.1 * min(box.width, box.height))) for text, box in boxes]  # a line's empty rim
    assert not [(a, b) for (a, x), (b, y) in combinations(boxes, 2) if x.overlaps(y)]
    page = figure.bbox.padded(1)
    assert not [text for text, box in boxes if not (page.contains(*box.min) and page.contains(*box.max))]


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_legible(name):
    check_legible(FIGURES[name][0]())


ACCENTS = "\u0301\u0302\u0303\u0304" * 20
LONG = {
    "models": (lambda i: f"Llama-7B-fine-tuned-on-everything-and-more-in-the-run-{i:02}", NAMES),
    "wide models": (lambda i: f"{i:02}{'W' * 62}", NAMES),
    "names": (lambda i: f"m{i}", {"A": f"Po{ACCENTS}sition", "B": "W" * 200, "C": "漢字" * 100, "D": "word " * 40}),
    "groups": (lambda i: f"m{i}", {f"group_{i}_of_sixty_and_more_letters{'_' * 20}": "Name" for i in range(8)}),
}


@pytest.mark.parametrize("draw", [lambda table: cmap_figure(outputs(table)), cmap_inputs_figure], ids=["bars", "cells"])
@pytest.mark.parametrize("models", [2, 6])
@pytest.mark.parametrize("kind", LONG)
@pytest.mark.filterwarnings("error", "ignore:Glyph")
def test_many_models_and_long_names_are_legible(monkeypatch, kind, models, draw):
    name, groups = LONG[kind]
    monkeypatch.setattr(f"{__name__}.MODELS", [name(i) for i in range(models)])
    monkeypatch.setattr(f"{__name__}.NAMES", groups)
    figure = draw(cmap())
    check_legible(figure)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert len(set(titles)) == models - 1, "each panel tells which it is"


def test_functions_draws_every_accuracy_at_its_model():
    table = functions()
    figure = functions_figure(table, chance=1 / 7)
    for axis, group in zip(figure.axes, NAMES, strict=True):
        own = table[table["group"] == group]
        for container, model, colour in zip(axis.containers, MODELS, COLOURS, strict=False):
            rows = own[own["model"] == model]
            assert [bar.get_height() for bar in container] == rows["accuracy"].tolist()
            assert {to_hex(bar.get_facecolor()) for bar in container} == {colour.lower()}
        ends = np.array([s for lines in axis.collections for s in lines.get_segments()])[:, :, 1]
        assert ends == pytest.approx(
            own.sort_values("model", key=lambda m: m.map(MODELS.index))[["low", "high"]].to_numpy()
        )


def test_cmap_draws_bars_and_both_models_alone():
    table = outputs(cmap())
    figure = cmap_figure(table)
    for axis, donor in zip(figure.axes, MODELS[1:], strict=True):
        assert bar_heights(axis) == table.loc[table["donor"] == donor, "accuracy"].tolist()
        assert {(line.get_linestyle(), line.get_ydata()[0]) for line in axis.lines} == {("--", 0.68), ("-.", 0.98)}


def test_cmap_inputs_prints_accuracy_and_colours_the_change():
    table = cmap()
    axis = cmap_inputs_figure(table).axes[0]
    own = table[table["donor"] == MODELS[1]]
    assert [t.get_text() for t in axis.texts] == [f"{a:.2f}" for a in own["accuracy"]]
    assert axis.collections[0].get_array().filled().ravel() == pytest.approx(own["accuracy"].to_numpy() - 0.68)
    assert sum(axis.collections[0].get_clim()) == 0, "no change has the middle colour"


def test_knockout_draws_lines_over_layers():
    table = knockout()
    for axis, model in zip(knockout_figure(table).axes, MODELS, strict=True):
        for line, (_, rows) in zip(axis.lines, table[table["model"] == model].groupby("key", sort=False), strict=False):
            assert line.get_xydata().tolist() == rows[["first_layer", "accuracy"]].to_numpy().tolist()
        assert axis.lines[3].get_ydata()[0] == 0.68


def test_completeness_draws_random_sets_and_groups():
    table = completeness()
    for axis, circuit_ in zip(completeness_figure(table, pooled()).axes, MODELS, strict=True):
        own = table[table["circuit_of"] == circuit_]
        points, random = own[["circuit", "full_model"]], own["removed"] == "random"
        assert axis.collections[0].get_offsets().filled() == pytest.approx(points[random].to_numpy())
        drawn = [line.get_xydata()[0] for line in axis.lines if line.get_marker() != "None"]
        assert np.array(drawn) == pytest.approx(points[~random].to_numpy())


def test_impact_mirrors_the_base_under_the_sorted_heads():
    table = impact()
    axis = causal_impact_figure(table).axes[0]
    own = table[table["other"] == MODELS[1]].sort_values("other_score")
    other, _, base_in, base_out = axis.containers
    assert [bar.get_height() for bar in other] == own["other_score"].abs().tolist()
    down = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in (*base_in, *base_out)}
    assert [down[i] for i in range(len(own))] == (-own["base_score"].abs()).tolist()
    assert len(base_in) == own["in_base"].sum()
    assert [t.get_text() for t in axis.get_xticklabels()] == (own["group"] + "  " + own["head"]).tolist()


def test_marked_words_of_a_prompt_stand_out():
    figure = desiderata_figure(desiderata())
    bold = [t.get_text() for t in figure.axes[0].texts if to_hex(t.get_color()) == COLOURS[0].lower()]
    assert bold == ["Box Q,", "Box Q,"]


def test_the_circuit_shows_where_heads_look_and_what_paths_carry():
    axis = circuit().axes[0]
    looks_at = [line for line in axis.lines if line.get_color() == COLOURS[3]]  # group D sees seven tokens, alike
    assert len(looks_at) == 7 and len({line.get_linewidth() for line in looks_at}) == 1
    arrows = [patch for patch in axis.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == 4 + 1, "one a path, and that of the legend"
    assert words(axis.figure).count("−42 % [−50, −30]") == 4


def test_a_long_prompt_leaves_out_what_nobody_looks_at():
    text = words(circuit([*TOKENS[:50], *["filler"] * 40, *TOKENS[50:]]))
    assert "…" in text and "query label:  F" in text and "last:  the" in text


def test_a_group_that_nothing_reaches_says_so_in_its_box_and_sends_nothing():
    empty = Group("B", Position.LAST, (), "nothing reaches A: all scores are at rounding level (at most 1.0e-07)")
    whole = Circuit((Group("A", Position.LAST, (Head(3, 0),)), empty))
    shown = pd.Series({"last": len(TOKENS) - 1})
    seen = pd.DataFrame(
        {"group": "A", "token_index": range(len(TOKENS)), "token": TOKENS, "attention": 1 / len(TOKENS)}
    )
    edges = pd.DataFrame(
        [("A", "logits", "", -0.4, -0.5, -0.3)], columns=["sender", "receiver", "via", "strength", "low", "high"]
    )
    groups, strongest, tokens = circuit_parts(whole, NAMES, seen, shown)
    figure = circuit_figure(groups, strongest, edges, tokens, "apple")
    text = words(figure)
    assert "Transmitter\nnothing reaches A" in text and "1 head, e.g. L3 H0" in text and "no heads" not in text
    check_legible(figure)


def gap(table: pd.DataFrame, rows, *columns: str) -> pd.DataFrame:
    table = table.reset_index(drop=True)
    table.loc[rows, [*columns]] = np.nan
    return table


NUMBERS = ("accuracy", "low", "high")
OF_SETS = ("full_model", "full_model_low", "full_model_high", "circuit", "circuit_low", "circuit_high")
GAPS = {
    "circuit": lambda rows: circuit(strength=np.nan),
    "functions": lambda rows: functions_figure(gap(functions(), rows, *NUMBERS), 1 / 7),
    "cmap": lambda rows: cmap_figure(gap(outputs(cmap()), rows, *NUMBERS)),
    "cmap-inputs": lambda rows: cmap_inputs_figure(gap(cmap(), rows, *NUMBERS)),
    "knockout": lambda rows: knockout_figure(gap(knockout(), rows, *NUMBERS)),
    "completeness": lambda rows: completeness_figure(gap(completeness(), rows, *OF_SETS), pooled(np.nan)),
    "impact": lambda rows: causal_impact_figure(gap(impact(), rows, "base_score", "other_score")),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [[8], slice(None)], ids=["one", "all"])
@pytest.mark.parametrize("name", GAPS)
def test_what_was_not_evaluated_is_said_and_not_drawn(name, rows, tmp_path):
    figure = GAPS[name](rows)
    assert "not evaluated" in words(figure)
    check_legible(figure)
    save(figure, tmp_path / "gap.svg", tmp_path / "gap.png")
    heights = [h for axis in figure.axes for h in bar_heights(axis)]
    assert not np.isnan(heights).any() and (rows != slice(None) or not heights)


def test_one_model_and_one_group():
    table = functions()
    one = table[(table["model"] == MODELS[0]) & (table["group"] == "A")]
    assert len(bar_heights(functions_figure(one, 1 / 7).axes[0])) == 3

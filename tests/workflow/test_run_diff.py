"""Two runs side by side: a copy, one with another number in its config, and what cannot be asked for so cheaply."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from mechdiff.common.files import file_sha256
from mechdiff.provenance.cells import read_table
from mechdiff.provenance.diff import diff_text, differing_cells, run_diff
from mechdiff.provenance.records import build_manifest, manifest_text
from small_run import RUN, copy_of, mechdiff


def test_a_copy_of_a_run_is_the_same_in_one_line(finished, tmp_path):
    copy_of(finished, tmp_path / "copy")
    done = mechdiff(tmp_path, "diff", str(finished / RUN), f"copy/{RUN}")
    same = "the same config, code, environment, weights and numbers (13 tables)"
    assert (done.returncode, done.stdout) == (0, f"{finished / RUN} and copy/{RUN}: {same}\n")


# The whole config as the crate has it, and the job that reads the value.
TOLD = ["config.evaluation.random_circuits: 2 | 3  in crate", "random_circuits: 2 | 3  in evaluate_circuit"]


def test_another_number_of_random_circuits_is_told_with_the_cells_that_it_changed(finished, with_three):
    found, equal = run_diff(finished / RUN, with_three / RUN)
    assert found["config"] == TOLD
    assert set(found) == {"config", "numbers"}
    assert {"table_cmap", "table_dcm", "table_A2_A3_A7_heads"} < set(equal)
    tables = [read_table(folder / RUN / "tables" / "table_1.parquet") for folder in (finished, with_three)]
    a, b = (table.set_index("model")["random_circuit"] for table in tables)
    cells = [f"random_circuit of model={m}: {a[m]} | {b[m]}" for m in a.index if a[m] != b[m]]
    assert cells and set(cells) <= {line.strip() for line in found["numbers"]}
    others = [line for line in found["numbers"] if " of model=" in line and "random" not in line]
    assert not others, "the model and its circuit are not drawn"


def test_the_command_prints_section_by_section(finished, with_three):
    done = mechdiff(finished, "diff", RUN, str(with_three / RUN))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"A is {RUN}, B is {with_three / RUN}"
    assert lines[1:5] == ["", "config, A | B", *(f"  {line}" for line in TOLD)]
    assert lines[-1].startswith("equal tables: table_A11_positional, ")


def resealed(folder: Path, record: str, change) -> Path:
    """A run with one record changed and sealed again, as another machine, checkout or model would have written it."""
    file = folder / RUN / record
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))
    names = json.loads((folder / RUN / "manifest.json").read_text())["records"]
    (folder / RUN / "manifest.json").write_text(manifest_text(build_manifest(RUN, names)))
    return folder / RUN


@pytest.fixture
def other(finished, tmp_path, monkeypatch) -> Path:
    """A copy to change, in which the test is put."""
    folder = copy_of(finished, tmp_path / "other")
    monkeypatch.chdir(folder)
    return folder


def test_another_environment_and_other_code_are_told(finished, other):
    def change(record):
        record["environment"]["packages"]["numpy"] = "1.0"
        record["environment"]["device"] = "cuda:0 (A GPU)"
        record["code"]["modules"]["mechdiff/experiments/cmap.py"] = "0" * 64
        record["git"] = None

    found, _ = run_diff(finished / RUN, resealed(other, "cmap/mini-goat.record.json", change))
    assert set(found) == {"code", "environment"}
    assert found["environment"][0] == "device: cpu | cpu, cuda:0 (A GPU)"
    assert found["environment"][1].startswith("numpy: ") and " | 1.0, " in found["environment"][1]
    assert found["code"][0].startswith("mechdiff/experiments/cmap.py: ") and found["code"][0].endswith(
        " | 000000000000"
    )
    assert found["code"][1].startswith("git commit: ") and "no checkout" in found["code"][1]


def test_other_weights_are_told_by_file(finished, other):
    def change(record):
        for file in record["inputs"]:
            if file["path"].endswith("adapter_model.safetensors"):
                file["sha256"] = "f" * 64

    found, _ = run_diff(finished / RUN, resealed(other, "cmap/mini-goat.record.json", change))
    (line,) = found["weights and other inputs"]
    assert line.startswith("resources/models/mini-goat/adapter_model.safetensors: ") and "ffffffffffff" in line


def test_cells_are_told_largest_difference_first_in_units_of_their_column(finished, other):
    table = other / RUN / "tables" / "table_cmap.parquet"
    changed = read_table(table)
    changed.loc[0, "accuracy"] += 0.5
    changed.loc[1, "n_correct"] += 1
    changed["name"] = changed["name"].replace("Value Fetcher", "Renamed")
    changed.drop(index=len(changed) - 1).to_parquet(table, index=False)

    def change(record):
        for file in record["outputs"]:
            file |= {"sha256": file_sha256(file["path"]), "bytes": Path(file["path"]).stat().st_size}

    found, equal = run_diff(finished / RUN, resealed(other, "tables/table_cmap.record.json", change))
    assert set(found) == {"numbers"} and "table_cmap" not in equal and len(equal) == 12
    title, missing, accuracy, count, *names, more = (line.strip() for line in found["numbers"])
    renamed = int((changed["name"].iloc[:-1] == "Renamed").sum())
    assert (title, more) == (f"table_cmap: {3 + renamed} differences", f"and {3 + renamed - 10} more")
    assert missing.startswith("row ") and missing.endswith("only in A")
    assert accuracy.startswith("accuracy of ") and count.startswith("n_correct of ")
    assert all(name.startswith("name of ") and name.endswith(": Value Fetcher | Renamed") for name in names)


def test_a_run_of_other_models_has_other_jobs_and_rows(finished, other):
    record = other / RUN / "cmap" / "mini-goat.record.json"
    record.unlink()
    manifest = json.loads((other / RUN / "manifest.json").read_text())
    names = [name for name in manifest["records"] if not name.endswith("cmap/mini-goat.record.json")]
    (other / RUN / "manifest.json").write_text(manifest_text(build_manifest(RUN, names)))
    assert "only in A: cmap model=mini-goat" in diff_text(finished / RUN, other / RUN)


def test_a_folder_without_a_run_is_said(finished, tmp_path):
    done = mechdiff(finished, "diff", RUN, str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"mechdiff: {tmp_path}/manifest.json: missing, so there is no finished run in {tmp_path}\n"


def test_undefined_numbers_are_equal_to_each_other_alone():
    a = pd.DataFrame({"model": ["x", "y", "z"], "n": [1.0, None, None]})
    b = pd.DataFrame({"model": ["x", "y", "z"], "n": [1.0, None, 2.0]})
    assert list(differing_cells(a, b)) == ["n of model=z: – | 2.0"]

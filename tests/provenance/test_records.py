"""Code versions, records and manifests. What the audit finds in a real run is in workflow/test_run.py."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from safetensors.torch import save_file
from snakemake.iocontainers import Log, OutputFiles

from mechdiff.common.errors import InputError
from mechdiff.common.files import digest, file_sha256, write_text
from mechdiff.provenance.code import PACKAGE, code_version, imported_modules
from mechdiff.provenance.records import build_manifest, environment, hashed_files, job, manifest_matches, read_record
from mechdiff.report.figures.style import save

SCRIPTS = PACKAGE.parent / "scripts"


def names(script: str) -> set[str]:
    """The script and the modules that it imports, by their paths from the package."""
    files = imported_modules(SCRIPTS / f"{script}.py")
    return {str(f.with_suffix("").relative_to(PACKAGE)) if f.is_relative_to(PACKAGE) else f.stem for f in files}


def test_a_script_depends_on_what_it_imports_directly_or_not_and_on_nothing_else():
    table, patching = names("table_1"), names("path_patching")
    of_report = {"report/tables/circuits", "report/tables/writing", "report/intervals"}
    of_engine = {"engine/run", "engine/cone", "models/patchable"}
    assert {"table_1", "circuits", "common/seeds", "common/errors"} | of_report <= table
    assert {"path_patching", "circuits", "models/checkpoints"} | of_engine <= patching
    assert not table & {*of_engine, "tasks/boxes/dataset", "experiments/minimality"}
    others = {"experiments/faithfulness", "experiments/minimality", "provenance/audit", "cli"}
    assert not patching & {*of_report, *others}


def test_the_code_version_follows_every_imported_module(tmp_path, monkeypatch):
    script = tmp_path / "scripts" / "go.py"
    package = tmp_path / "mechdiff"
    for file, text in {
        script: "from mechdiff.first import x",
        package / "__init__.py": "",
        package / "first.py": "from mechdiff import second",
        package / "second.py": "y = 1",
        package / "unused.py": "z = 1",
    }.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr("mechdiff.provenance.code.PACKAGE", package)
    before = code_version(script)
    (package / "unused.py").write_text("z = 2")
    assert code_version(script) == before
    (package / "second.py").write_text('"""What it is."""\n\ny = (\n    1  # one\n)')
    assert code_version(script) == before
    (package / "second.py").write_text("y = 2")
    assert code_version(script) != before


def test_sha256_of_the_empty_file_is_the_known_one(tmp_path):
    (tmp_path / "empty").touch()
    assert file_sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_order_of_keys_does_not_matter_to_a_digest_and_values_do():
    assert digest({"a": 1, "b": [2, None]}) == digest({"b": [2, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_a_manifest_that_was_touched_does_not_match(tmp_path):
    record = tmp_path / "x.record.json"
    record.write_text("{}")
    manifest = build_manifest("results/x", [str(record)])
    assert manifest_matches(manifest)
    assert not manifest_matches(manifest | {"run": "results/y"})
    assert not manifest_matches({key: value for key, value in manifest.items() if key != "digest"})


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "new \ud800")
    assert file.read_text() == "old"
    write_text(file, "new")
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".part"] == ["table.csv"]
    assert file.read_text() == "new"


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "broken.record.json").write_text("{")
    with pytest.raises(InputError, match=r"broken\.record\.json: cannot be read as a record"):
        read_record(tmp_path / "broken.record.json")


def test_the_conda_environment_has_the_pinned_versions():
    envs = PACKAGE.parents[1] / "envs"
    pinned = set((envs / "requirements.txt").read_text().split()) | {"torch==2.13.0"}
    conda = yaml.safe_load((envs / "conda.yaml").read_text())["dependencies"][-1]["pip"]
    assert set(conda) <= pinned
    assert "torch==2.13.0" in (envs / "cpu.txt").read_text().split()


def test_a_folder_stands_for_the_files_in_it(tmp_path):
    for name in ("b/two", "one", ".snakemake_timestamp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = hashed_files([str(tmp_path / "one"), str(tmp_path)])
    assert [file["path"] for file in found] == [f"{tmp_path}/one", f"{tmp_path}/b/two"]
    assert [file["bytes"] for file in found] == [3, 5]


def test_the_device_is_the_one_that_was_computed_on(monkeypatch):
    assert environment(1)["device"] == "cpu"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda i: 7 * i)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "A GPU")
    assert environment(1)["device"] == "cuda:1 (A GPU)"


def test_a_job_whose_code_is_not_what_its_run_began_with_stops_with_one_line(tmp_path, capsys):
    known = {"rule": "verdict", "scriptdir": str(SCRIPTS), "threads": 1, "log": [tmp_path / "log"]}
    with pytest.raises(SystemExit), job(SimpleNamespace(**known, params={"code": "of yesterday"})):
        raise AssertionError("it does not begin")
    line = "verdict was changed after this run began; start the run again\n"
    assert capsys.readouterr().err == f"mechdiff: the code of rule {line}"
    assert (tmp_path / "log").read_text() == f"verdict: the code of rule {line}"


def job_of(folder: Path, *outputs: str) -> SimpleNamespace:
    """What Snakemake gives to a script."""
    named = OutputFiles([str(folder / output) for output in outputs])
    known = {"rule": "verdict", "scriptdir": str(SCRIPTS), "threads": 1, "log": Log([str(folder / "log")])}
    return SimpleNamespace(**known, input=[], output=named, params={}, wildcards={})


@contextmanager
def full_disk(most: int = 2000) -> Iterator[None]:
    """Files can grow to so many bytes: writing more fails as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def drawn() -> Figure:
    figure = Figure()
    figure.subplots().plot(range(100))
    return figure


NUMBERS = torch.arange(5000.0)
WRITERS = {
    "x.txt": lambda path: Path(path).write_text("x" * 5000),
    "x.json": lambda path: write_text(path, "x" * 5000),
    "x.csv": lambda path: pd.DataFrame({"x": NUMBERS}).to_csv(path),
    "x.parquet": lambda path: pd.DataFrame({"x": NUMBERS}).to_parquet(path),
    "x.safetensors": lambda path: save_file({"x": NUMBERS}, path),
    "x.svg": lambda path: save(drawn(), path, Path(path).with_suffix(".png")),
    "x.png": lambda path: drawn().savefig(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_stops_a_job_with_one_line_that_names_the_file(tmp_path, capsys, name):
    made = job_of(tmp_path, "first.txt", name, "last.txt")
    with full_disk(), pytest.raises(SystemExit) as ended, job(made):
        Path(made.output[0]).write_text("there is room for it")
        WRITERS[name](made.output[1])
    line = capsys.readouterr().err
    assert ended.value.code == 1 and line.startswith("mechdiff: ") and line.count("\n") == 1
    assert str(tmp_path / name) in line and ".part" not in line and "File too large" in line
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_file_that_cannot_be_opened_is_called_by_its_own_name(tmp_path, capsys):
    made = job_of(tmp_path, "x.txt")
    with pytest.raises(SystemExit), job(made):
        (Path(made.output[0]) / "y").open("x")
    assert f"'{tmp_path / 'x.txt'}/y'" in capsys.readouterr().err


def test_a_full_disk_names_the_record_and_the_log_too(tmp_path, capsys):
    made = job_of(tmp_path, "x.txt")
    made.output._set_name("record", 0)
    with full_disk(100), pytest.raises(SystemExit), job(made):
        pass
    line = capsys.readouterr().err
    assert f"mechdiff: {tmp_path / 'x.txt'}: [Errno 27]" in line and line.count("\n") == 1
    assert not list(tmp_path.glob("*.txt"))
    with pytest.raises(SystemExit), full_disk(), job(job_of(tmp_path)) as notes:
        notes["x"] = "x" * 5000
    assert str(tmp_path / "log") in capsys.readouterr().err

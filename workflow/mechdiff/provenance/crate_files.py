"""What a run's crate needs beside the run's own files: workflow, config, lock file, rule graph, a first page."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mechdiff.common.files import write_text
from mechdiff.provenance.code import PACKAGE
from mechdiff.provenance.records import hashed_files

File = Mapping[str, Any]  # path, sha256 and bytes
Records = dict[str, dict[str, Any]]
SOURCES = PACKAGE.parents[1]
FOLDER = "crate"  # in the run's folder: what the run used and did not make
SNAKEFILE, CONFIG, LOCK, GRAPH = (
    f"{FOLDER}/{name}" for name in ("Snakefile", "config.yaml", "requirements.txt", "rulegraph.dot")
)
README = "README.md"
SHOWN = ("tables", "figures", "verdict")  # folders of the run that a reader looks into
FORMATS = {".csv": "text/csv", ".md": "text/markdown", ".html": "text/html", ".txt": "text/plain", ".rst": "text/x-rst"}
FORMATS |= {".tex": "text/x-tex", ".py": "text/x-python", ".dot": "text/vnd.graphviz", "": "text/plain"}
FORMATS |= {".svg": "image/svg+xml", ".png": "image/png", ".json": "application/json", ".yaml": "application/yaml"}
FORMATS |= {".parquet": "application/vnd.apache.parquet"}


def gather(run: str, records: Records, config: dict[str, Any], place: Path) -> dict[str, File]:
    """Write what a run's crate needs beside the run's own files: path in the run's folder -> file.

    ``place`` stands for the run's folder.
    """
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(SOURCES / "workflow", place / FOLDER / "workflow", ignore=ignored)
    shutil.copy(SOURCES / "Snakefile", place / SNAKEFILE)
    write_text(place / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    pythons = sorted({record["environment"]["python"] for record in records.values()})
    lock = [f"# Python {', '.join(pythons)}", *(f"{name}=={version}" for name, version in packages(records))]
    write_text(place / LOCK, "\n".join(lock) + "\n")
    write_text(place / GRAPH, rule_graph(records))
    lines = [f"# Run {config['run']}\n", "Tables, figures and the verdict are in `tables/`, `figures/` and `verdict/`."]
    lines += [f"`{FOLDER}/` has the workflow, the config and the package versions of the run."]
    lines += ["`mechdiff audit`, above `results/`, verifies every file but logs against the record of its job."]
    write_text(place / README, "\n".join(lines) + "\n")
    found = {Path(f["path"]).relative_to(place): f for f in hashed_files(map(str, (place / FOLDER, place / README)))}
    return {str(path): file | {"path": f"{run}/{path}"} for path, file in found.items()}


def packages(records: Records) -> list[tuple[str, str]]:
    """Packages of all jobs; one has two versions where a run went on in another environment."""
    return sorted({pair for record in records.values() for pair in record["environment"]["packages"].items()})


def rule_graph(records: Records) -> str:
    """Which rule reads what which rule wrote, in the language of Graphviz."""
    maker = {file["path"]: record["rule"] for record in records.values() for file in record["outputs"]}
    read = {(file["path"], record["rule"]) for record in records.values() for file in record["inputs"]}
    edges = sorted({(maker[path], rule) for path, rule in read if path in maker})
    return "digraph rules {\n" + "".join(f"  {one} -> {after};\n" for one, after in edges) + "}\n"

"""What a run's crate needs beside the run's own files: workflow, config, lock file, rule graph, a first page."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mechdiff.provenance import write_text

Records = dict[str, dict[str, Any]]
FOLDER = "crate"  # in the run's folder: what the run used and did not make
GATHERED = ("Snakefile", "config.yaml", "requirements.txt", "rulegraph.dot")
README = "README.md"
FORMATS = {".csv": "text/csv", ".md": "text/markdown", ".html": "text/html", ".txt": "text/plain", ".rst": "text/x-rst"}
FORMATS |= {".tex": "text/x-tex", ".py": "text/x-python", ".dot": "text/vnd.graphviz", "": "text/plain"}
FORMATS |= {".svg": "image/svg+xml", ".png": "image/png", ".json": "application/json", ".yaml": "application/yaml"}
FORMATS |= {".parquet": "application/vnd.apache.parquet"}


def gather(run: str, records: Records, config: Mapping[str, Any], sources: Path) -> None:
    """Put into the run's folder what its crate needs beside the run's own files."""
    folder = Path(run, FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(sources / "workflow", folder / "workflow", ignore=ignored, dirs_exist_ok=True)
    shutil.copy(sources / "Snakefile", folder)
    write_text(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
    pythons = sorted({record["environment"]["python"] for record in records.values()})
    lock = [f"# Python {', '.join(pythons)}", *(f"{name}=={version}" for name, version in packages(records))]
    write_text(folder / "requirements.txt", "\n".join(lock) + "\n")
    write_text(folder / "rulegraph.dot", rule_graph(records))
    lines = [f"# Run {config['run']}\n", "Tables, figures and the verdict are in `tables/`, `figures/` and `verdict/`."]
    lines += [f"`{FOLDER}/` has the workflow, the config and the package versions of the run."]
    lines += ["`mechdiff audit`, above `results/`, verifies every file against the record of the job that made it."]
    write_text(Path(run, README), "\n".join(lines) + "\n")


def packages(records: Records) -> list[tuple[str, str]]:
    """Packages of all jobs; one has two versions where a run went on in another environment."""
    return sorted({pair for record in records.values() for pair in record["environment"]["packages"].items()})


def rule_graph(records: Records) -> str:
    """Which rule reads what which rule wrote, in the language of Graphviz."""
    maker = {file["path"]: record["rule"] for record in records.values() for file in record["outputs"]}
    read = {(file["path"], record["rule"]) for record in records.values() for file in record["inputs"]}
    edges = sorted({(maker[path], rule) for path, rule in read if path in maker})
    return "digraph rules {\n" + "".join(f"  {one} -> {after};\n" for one, after in edges) + "}\n"

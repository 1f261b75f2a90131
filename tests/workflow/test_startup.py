"""Jobs that run no model do not wait for torch, which takes longer to import than they take to run."""

from __future__ import annotations

import os
import subprocess
import sys

from micro import ROOT

SCRIPTS = ROOT / "workflow" / "scripts"
RUNS_A_MODEL = ("mechdiff.models.loading", "mechdiff.experiments.model_check", "mechdiff.organisms")
# Prints, a line a script, which of the two importing it imports. What all may import is imported once, before it forks.
IMPORTS = """
import os, runpy, sys, pandas, matplotlib.figure, tokenizers, safetensors
for script in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    runpy.run_path(script, run_name="imported")
    os.write(1, " ".join([script, *sorted({"torch", "transformers"} & sys.modules.keys()), chr(10)]).encode())
    os._exit(0)
"""


def test_scripts_that_run_no_model_import_neither_torch_nor_transformers():
    scripts = [str(file) for file in sorted(SCRIPTS.glob("*.py")) if not runs_a_model(file.read_text())]
    env = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    command = [sys.executable, "-c", IMPORTS, *scripts]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert [line.split() for line in done.stdout.splitlines()] == [[script] for script in scripts]


def runs_a_model(source: str) -> bool:
    return any(f"from {module}" in source for module in RUNS_A_MODEL)

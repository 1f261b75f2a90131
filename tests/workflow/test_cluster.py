"""The profiles say what Snakemake understands, and a run on a cluster is planned without one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.cli import get_argument_parser
from snakemake.profiles import ProfileConfigFileParser

from micro import ROOT

PROFILES = ["slurm", "profiles/default"]
# Snakemake says what a job asks for where its rule has no message of its own: here of every job.
SAY_ALL = """
import sys
from snakemake import cli, logging
logging.DefaultFormatter.format_job_info = lambda self, info: "\\n".join(self._format_job_info(info))
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("profile", PROFILES)
def test_every_key_of_a_profile_is_an_option_and_none_is_dropped(profile):
    file = ROOT / profile / "config.yaml"
    options = {option for action in get_argument_parser()._actions for option in action.option_strings}
    with file.open() as stream:
        kept = ProfileConfigFileParser().parse(stream)
    given = [key for key in yaml.safe_load(file.read_text()) if not key.startswith("__")]
    assert list(kept) == given, "a map that no option takes is dropped in silence"
    assert {f"--{key}" for key in kept} <= options


def test_every_rule_that_the_slurm_profile_names_is_there():
    profile = yaml.safe_load((ROOT / "slurm" / "config.yaml").read_text())
    rules = set(re.findall(r"^rule (\w+):", "".join(p.read_text() for p in (ROOT / "workflow/rules").iterdir()), re.M))
    assert set(profile["groups"]) <= rules
    assert set(profile["groups"].values()) == set(profile["group-components"])
    shown = {rule for rule in rules if rule.startswith(("table_", "figure_", "generate_"))}
    assert shown <= set(profile["groups"]), "a short job is sent with others"


def without_slurm(folder: Path) -> str:
    """A PATH with no program of Slurm."""
    for name in ("bash", "sh", "env", "git", "which", "uname"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return str(folder)


def test_the_papers_run_on_a_cluster_is_planned_with_its_requests_and_without_slurm(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("config", "resources", "slurm"):
        shutil.copytree(ROOT / name, tmp_path / name)
    command = [sys.executable, "-c", SAY_ALL, "-s", str(ROOT / "Snakefile"), "-n", "-p", "--profile", "slurm"]
    env = os.environ | {"PATH": without_slurm(tmp_path / "bin")}
    done = subprocess.run(
        [*command, "--configfile", "config/paper.yaml"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    asked: dict[str, list[dict[str, str]]] = {}
    for rule, text in re.findall(
        r"^ *(?:local)?rule (\w+):\n(.*?)\n *\n", done.stdout + done.stderr + "\n\n", re.M | re.S
    ):
        asked.setdefault(rule, []).append(dict(re.findall(r"(mem_mb|runtime|gpu)=(\w+)", text)))
    # float16 of 7e9 numbers, an experiment's 4 GB and the program's 3; an adapter is as large as its base
    one, two = ({"mem_mb": str(n * 14000 + 7000), "runtime": str(30 + n * 140), "gpu": "1"} for n in (1, 2))
    assert asked["path_patching"] == [one] * 16 and asked["dcm"] == [one] * 4 and asked["attention_patterns"] == [one]
    assert asked["cmap"] == [two] * 3
    for rule in ("table_1", "figure_4", "generate_dataset", "select_candidates", "verdict"):
        assert asked[rule] and all(job == {"mem_mb": "2000", "runtime": "10"} for job in asked[rule]), rule

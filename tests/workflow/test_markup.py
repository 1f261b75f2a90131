"""A run whose config has markup in every free text: it arrives as text, on every page and in the report."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from markup import NAMES, Page
from mechdiff.provenance.audit import audit
from small_run import CONFIG, mechdiff, snakemake

pytestmark = pytest.mark.whole_run
RUN = "results/test"
GROUP_NAMES = [" ".join(NAMES[start:end])[:200].strip() for start, end in ((0, 4), (4, 8), (8, 12), (12, 16))]
TUNED_ON = " ".join((NAMES[2], NAMES[5], NAMES[6], NAMES[7], NAMES[13]))[:190].strip()
PAGES = {"html", "meta", "title", "style", "table", "thead", "tbody", "tr", "th", "td"}
PAGES |= {"h1", "h2", "p", "code", "ol", "li", "strong"}
CAPTIONS = {"div", "p", "tt", "span", "em", "strong", "cite"}


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory) -> Path:
    """The finished run with other names: all that shows them is made again."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("markup") / "run")
    config = yaml.safe_load((folder / CONFIG).read_text())
    for entry, name in zip(config["plan"], GROUP_NAMES, strict=True):
        entry["name"] = name
    config["models"]["mini-goat"]["fine_tuned_on"] = TUNED_ON.replace(" ", "\n\n", 1)
    config["crate"] = {"agent": {"name": NAMES[0], "url": "https://example.org/?a=1&b='2'"}}
    (folder / "markup.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for arguments in ((), ("--report", "report.html")):
        done = snakemake(folder, "--configfile", "markup.yaml", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_has_an_element_of_a_name_and_the_names_are_there(folder):
    run = folder / RUN
    pages = {file.stem: Page(file.read_text()) for file in run.rglob("*.html")}
    for found in pages.values():
        assert found.elements <= PAGES
        assert {name for _, name in found.attributes} <= {"lang", "charset", "name", "content", "style"}
    assert TUNED_ON in pages["table_1"].text
    assert all(name in pages["table_A2_A3_A7_heads"].text for name in GROUP_NAMES)
    assert any(name in pages["verdict"].text for name in GROUP_NAMES)
    for file in (run / "figures").glob("*.svg"):
        ET.parse(file)


def test_the_report_is_whole_and_its_captions_are_text(folder):
    scripts = Page((folder / "report.html").read_text()).scripts
    data = {name: json.loads(scripts[name].strip().split(" = ", 1)[1].rstrip(";")) for name in ("results", "rules")}
    description = Page(json.loads(scripts["workflow-desc"].strip().split(" = ", 1)[1].rstrip(";")))
    captions = [Page(result["caption"]) for result in data["results"].values()]
    assert len(captions) > 20 and TUNED_ON in description.text
    for found in (description, *captions):
        assert found.elements <= CAPTIONS and {name for _, name in found.attributes} <= {"class"}


def test_the_run_audits_and_a_cell_is_explained_with_its_printed_form(folder):
    assert audit(folder / RUN)
    names = [f"{RUN}/tables/table_A2_A3_A7_heads.csv", "--row", "circuit_of=mini-goat,group=A", "--column", "name"]
    done = mechdiff(folder, "explain", *names, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["printed"]["name"] == GROUP_NAMES[0]
    crate = json.loads((folder / RUN / "ro-crate-metadata.json").read_text())
    told = [entity.get(key) for entity in crate["@graph"] for key in ("name", "description")]
    assert NAMES[0] in told and TUNED_ON in told

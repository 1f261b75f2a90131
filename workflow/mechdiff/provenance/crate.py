"""A run as a Workflow Run RO-Crate: its records in the terms that other tools read.

The run's folder is the crate; its ``ro-crate-metadata.json`` follows the Provenance Run Crate profile 0.5 on RO-Crate
1.1. Nothing is measured here: the same records and config give the same crate. How they map to the profile's terms:

====================================  ==============================================================================
Snakefile                             main workflow: File, SoftwareSourceCode, ComputationalWorkflow, HowTo
rule                                  HowToStep; its script is the tool, its code's version the tool's
record of a job                       CreateAction, the record is its ``subjectOf``; ControlAction from its step
record: inputs, outputs               File: ``object`` and ``result`` of the action
record: params                        PropertyValue: ``object`` of the action
record: environment.packages          SoftwareApplication: softwareRequirements of the workflow; a lock file
the whole run                         CreateAction of the workflow; OrganizeAction of Snakemake
config as used, defaults filled in    File ``crate/config.yaml``: ``object`` of the whole run
model                                 Collection of its files; version is the commit of the hub
====================================  ==============================================================================

A file of the run has its path as ``@id``, a file of a hub's model its address there. Any other (weights, a list of
words) is not in the crate: its ``@id`` is its path after a ``#``, and its sha256 tells which file it is.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from rocrate.model.computerlanguage import get_lang
from rocrate.model.contextentity import ContextEntity
from rocrate.model.entity import Entity
from rocrate.model.file import File as FileEntity
from rocrate.rocrate import ROCrate

from mechdiff.common.files import digest
from mechdiff.models.hub import fetched_folder
from mechdiff.provenance import crate_files as own
from mechdiff.provenance.crate_files import File, Records, packages
from mechdiff.provenance.records import hashed_files
from mechdiff.provenance.sealed import MANIFEST, in_order

HUB = "https://huggingface.co"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
DESCRIPTOR = ("https://w3id.org/ro/crate/1.1", list(PROFILES)[-1])
BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
TERMS = {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}  # beyond those of RO-Crate 1.1


def describe(run: str, records: Records, config: dict[str, Any], gathered: Mapping[str, File]) -> str:
    """The text of a run's ``ro-crate-metadata.json``; gathered: what :func:`gather` put into its folder."""
    crate = _Crate(run, in_order(records), config, gathered)
    return json.dumps(crate.described(), indent=1, ensure_ascii=False) + "\n"


class _Crate:
    """The entities of one run's crate, each made where it is first named."""

    def __init__(self, run: str, records: Records, config: Mapping[str, Any], gathered: Mapping[str, File]) -> None:
        self.run, self.records, self.config, self.gathered = run, records, config, gathered
        self.made = {file["path"]: file for record in records.values() for file in record["outputs"]}
        self.read = {file["path"]: file for record in records.values() for file in record["inputs"]}
        self.folders = {
            name: model["path"] or fetched_folder(model["hub"], model["revision"])
            for name, model in config["models"].items()
        }
        self.crate = ROCrate(version="1.1")
        agent = config["crate"]["agent"]
        kind = "Person" if agent and agent["url"].startswith("https://orcid.org/") else "Organization"
        self.agent = agent and self.add(agent["url"], kind, **agent)
        times = [_times(record) for record in records.values()]
        self.ended = max(time["endTime"] for time in times)
        self.whole = {"startTime": min(time["startTime"] for time in times), "endTime": self.ended}

    def described(self) -> dict[str, Any]:
        """The whole, as JSON-LD."""
        settings, lock, graph = [self.file(self.gathered[name]) for name in (own.CONFIG, own.LOCK, own.GRAPH)]
        tools = {rule: self.tool(rule) for rule in dict.fromkeys(r["rule"] for r in self.records.values())}
        jobs = [self.job(name, record, tools[record["rule"]]) for name, record in self.records.items()]
        models = [self.model(name) for name in self.config["models"]]
        requirements = [self.package(*package) for package in packages(self.records)]
        workflow = self.workflow(tools, [*requirements, lock])
        given = [path for path in self.read if path not in self.made and path not in self.records]
        shown = [PurePath(self.run, name) for name in own.SHOWN]
        whole = self.action(
            "#run",
            "CreateAction",
            name=f"Run {self.config['run']}",
            description=f"Run of {len(jobs)} jobs",
            instrument=workflow,
            object=[settings, *models, *(self.file(self.read[path]) for path in given)],
            result=[self.file(file) for path, file in self.made.items() if PurePath(path).parent in shown],
            **self.whole,
        )
        self.action(
            "#snakemake",
            "OrganizeAction",
            name="Run of Snakemake",
            instrument=[package for package in requirements if package["name"] == "snakemake"],
            object=[started for _, started in jobs],
            result=whole,
            **self.whole,
        )
        graph["about"] = workflow
        self.root(workflow, [whole, *(job for job, _ in jobs), *models])
        return self.crate.metadata.generate()

    def add(self, identifier: str, kind: str, **properties: Any) -> Entity:
        """A contextual entity, made once."""
        if identifier in self.crate:
            return self.crate.get(identifier)
        return self.crate.add(ContextEntity(self.crate, identifier, {"@type": kind} | _tidy(properties)))

    def action(self, identifier: str, kind: str, **properties: Any) -> Entity:
        status = "http://schema.org/CompletedActionStatus"  # a job that fails leaves no record
        return self.add(identifier, kind, **properties, actionStatus=status, agent=self.agent)

    def file(self, file: File, **more: Any) -> Entity:
        """A file as a record names it, made once."""
        path = PurePath(file["path"])
        known = {"name": path.name, "encodingFormat": own.FORMATS.get(path.suffix, "application/octet-stream")}
        known |= {"contentSize": str(file["bytes"]), "sha256": file["sha256"]} | _tidy(more)
        if path.is_relative_to(self.run):
            name = str(path.relative_to(self.run))
            if quote(name) in self.crate:
                return self.crate.get(quote(name))
            return self.crate.add(FileEntity(self.crate, dest_path=name, properties=known))
        for model, folder in self.folders.items():
            source = self.config["models"][model]
            if source["hub"] and path.is_relative_to(folder):
                name = quote(str(path.relative_to(folder)))
                address = f"{HUB}/{source['hub']}/resolve/{source['revision']}/{name}"
                known["sdDatePublished"] = self.ended
                return self.crate.get(address) or self.crate.add(FileEntity(self.crate, address, properties=known))
        return self.add(f"#{quote(str(path))}", "File", **known)

    def tool(self, rule: str) -> Entity:
        """The script of a rule."""
        script = f"workflow/scripts/{rule}.py"
        return self.file(
            self.gathered[f"{own.FOLDER}/{script}"],
            **{"@type": ["File", "SoftwareSourceCode"]},
            name=rule,
            description=ast.get_docstring(ast.parse((own.SOURCES / script).read_text(encoding="utf-8"))),
            version=sorted({r["code"]["version"] for r in self.records.values() if r["rule"] == rule}),
            url=f"{own.FOLDER}/{script}",
        )

    def job(self, name: str, record: Mapping[str, Any], tool: Entity) -> tuple[Entity, Entity]:
        """The action of one job, from its record, and that of starting it."""
        rule, where = record["rule"], record["environment"]
        values = []
        for key, value in record["params"].items():
            if key != "code":  # the tool's version
                text = value if isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)
                identifier = f"#{rule}/{key}/{digest(value)[:16]}"
                values.append(self.add(identifier, "PropertyValue", name=key, value=text))
        path = quote(name.removeprefix(f"{self.run}/").removesuffix(".record.json"))
        done = self.action(
            f"#job/{path}",
            "CreateAction",
            name=" ".join([rule, *record["wildcards"].values()]),
            description=f"{where['device']}, {where['threads']} threads, {where['platform']}",
            instrument=tool,
            object=[*(self.file(file) for file in record["inputs"]), *values],
            result=[self.file(file) for file in record["outputs"]],
            subjectOf=self.file(hashed_files([name])[0]),
            **_times(record),
        )
        known = {"name": f"Start {done['name']}", "instrument": {"@id": f"#step/{rule}"}, "object": done}
        return done, self.action(f"#control/{path}", "ControlAction", **known)

    def model(self, name: str) -> Entity:
        """A model: its files, and which commit of the hub they are."""
        model, folder = self.config["models"][name], self.folders[name]
        files = [f for path, f in sorted((self.read | self.made).items()) if PurePath(path).is_relative_to(folder)]
        return self.add(
            f"#model/{name}",
            "Collection",
            name=name,
            description=model["fine_tuned_on"],
            version=model["revision"],
            url=model["hub"] and f"{HUB}/{model['hub']}",
            isBasedOn=model["base"] and {"@id": f"#model/{model['base']}"},
            mainEntity=[self.file(file) for file in sorted(files, key=lambda file: -file["bytes"])[:1]],
            hasPart=[self.file(file) for file in files],
        )

    def package(self, name: str, version: str) -> Entity:
        url = f"https://pypi.org/project/{name}/"
        return self.add(f"{url}#{version}", "SoftwareApplication", name=name, softwareVersion=version, url=url)

    def workflow(self, tools: Mapping[str, Entity], requirements: list[Entity]) -> Entity:
        """The Snakefile as the main workflow."""
        steps = [
            self.add(f"#step/{rule}", "HowToStep", name=rule, position=str(position), workExample=tool)
            for position, (rule, tool) in enumerate(tools.items(), start=1)
        ]
        language = get_lang(self.crate, "snakemake", dict(packages(self.records))["snakemake"])
        return self.file(
            self.gathered[own.SNAKEFILE],
            **{"@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]},
            name="mechdiff",
            version=sorted({_version(record) for record in self.records.values()}),
            url=own.SNAKEFILE,
            conformsTo={"@id": BIOSCHEMAS},
            programmingLanguage=self.crate.add(language),
            hasPart=list(tools.values()),
            step=steps,
            softwareRequirements=requirements,
        )

    def root(self, workflow: Entity, mentions: list[Entity]) -> None:
        self.file(self.gathered[own.README], about=self.crate.root_dataset)
        manifest = {"name": MANIFEST, "encodingFormat": own.FORMATS[".json"], "description": "Seals records and crate"}
        self.crate.add(FileEntity(self.crate, dest_path=MANIFEST, properties=manifest))
        license_ = self.config["crate"]["license"]
        profiles = [self.add(url, "CreativeWork", name=n, version=url.split("/")[-1]) for url, n in PROFILES.items()]
        text = f"What fine-tuning changed in {', '.join(self.folders)}: tables, figures, verdict, how they were made"
        known: dict[str, Any] = {"name": f"mechdiff: run {self.config['run']}", "description": text}
        known |= {"datePublished": self.ended}
        known |= {"license": self.add(license_, "CreativeWork", name=license_), "conformsTo": profiles}
        known |= {"author": self.agent, "publisher": self.agent, "mainEntity": workflow, "mentions": mentions}
        for key, value in _tidy(known).items():
            self.crate.root_dataset[key] = value
        self.crate.metadata.extra_terms = TERMS
        self.crate.metadata["conformsTo"] = [{"@id": url} for url in DESCRIPTOR]


def _times(record: Mapping[str, Any]) -> dict[str, str]:
    began = datetime.fromisoformat(record["started"])
    ended = began + timedelta(seconds=record["wall_seconds"])
    return {"startTime": began.isoformat(timespec="seconds"), "endTime": ended.isoformat(timespec="seconds")}


def _version(record: Mapping[str, Any]) -> str:
    git = record["git"]
    return record["mechdiff"] + (f"+{git['commit']}{'.dirty' if git['dirty'] else ''}" if git else "")


def _tidy(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None or empty, and a list of one as that one: RO-Crate wants it so."""
    kept = {key: value for key, value in properties.items() if value is not None and value != []}
    return {key: v[0] if isinstance(v, list) and len(v) == 1 else v for key, v in kept.items()}

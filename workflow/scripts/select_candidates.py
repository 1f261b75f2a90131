"""Rule select_candidates: the circuit before pruning (paper, section 4.1)."""

import sys
from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.common.files import write_text
from mechdiff.experiments.columns import read_shards, rounding
from mechdiff.experiments.ranking import Step, reaching, score_table, select_candidates
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, inputs = snakemake.params, snakemake.input
        name, changes = snakemake.wildcards.model, read_shards([e["group"] for e in p.plan], inputs.changes)
        scores = {group: score_table(name, group, table) for group, table in changes.items()}
        plan = [Step.from_config(entry, len(scores[entry["group"]])) for entry in p.plan]
        circuit = select_candidates(reaching(plan, changes, rounding(inputs.check)), scores)
        for group in circuit.groups:
            if group.note:
                print(f"mechdiff: {name}, group {group.name}: {group.note}", file=sys.stderr)
        pd.concat(scores.values(), ignore_index=True).to_parquet(snakemake.output.scores, index=False)
        write_text(snakemake.output.candidates, circuit.to_json())

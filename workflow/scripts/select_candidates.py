"""Rule select_candidates: the circuit before pruning, and how stable it is (paper, section 4.1)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.path_patching import Step, select_candidates
from mechdiff.provenance import job, write_text
from mechdiff.seeds import stream
from mechdiff.stability import chosen_shares

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, inputs = snakemake.params, snakemake.input
        groups = [entry["group"] for entry in p.plan]
        scores, changes = (
            {group: pd.read_parquet(file) for group, file in zip(groups, files, strict=True)}
            for files in (inputs.scores, inputs.changes)
        )
        plan = [Step.from_config(entry, len(scores[entry["group"]])) for entry in p.plan]
        circuit, scenes = select_candidates(plan, scores), pd.read_parquet(inputs.discovery)["scene_id"]
        rng = stream(p.seed, "stability", snakemake.wildcards.model)
        chosen = chosen_shares(plan if circuit.groups else [], changes, scenes, p.resamples, rng)
        chosen.to_parquet(snakemake.output.stability, index=False)
        write_text(snakemake.output.candidates, circuit.to_json())

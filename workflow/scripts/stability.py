"""Rule stability: which heads discovery would choose again from other examples (not in the paper)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.common.seeds import stream
from mechdiff.experiments.columns import read_shards, rounding
from mechdiff.experiments.ranking import Step, reaching
from mechdiff.experiments.stability import chosen_shares
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, inputs = snakemake.params, snakemake.input
        scenes = pd.read_parquet(inputs.discovery)["scene_id"]
        changes = read_shards([entry["group"] for entry in p.plan], inputs.changes)
        plan = [Step.from_config(entry, changes[entry["group"]].shape[1]) for entry in p.plan]
        evaluated = not any(table.empty for table in changes.values())
        plan = reaching(plan, changes, rounding(inputs.check)) if evaluated else []
        rng = stream(p.seed, "stability", snakemake.wildcards.model)
        chosen = chosen_shares(plan, changes, scenes, p.resamples, rng)
        chosen.to_parquet(snakemake.output.chosen, index=False)

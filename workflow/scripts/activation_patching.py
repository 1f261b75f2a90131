"""Rule activation_patching: what the functional heads of every circuit carry in one model (paper, section 5)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.common.progress import progress
from mechdiff.experiments.activation_patching import COLUMNS, activation_patching
from mechdiff.experiments.columns import not_evaluated, read_each
from mechdiff.experiments.dcm import Pairs
from mechdiff.experiments.shards import share
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.loading import open_model
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, w, found = snakemake.params, snakemake.wildcards, [pd.DataFrame(columns=COLUMNS)]
        circuits = read_each(Circuit.read, p.circuits, snakemake.input.functional)
        patches = sum(len(circuit.groups) for circuit in circuits.values())
        sets = share(range(p.sets), int(w.shard), p.shards)
        if patches and not not_evaluated(snakemake.input.check):
            tables = [pd.read_parquet(file).query("part == 'patching'") for file in snakemake.input.desiderata]
            tables = [table[table["set"] == each] for each in sets for table in tables]
            model = open_model(Checkpoint.from_params(p.model))
            with progress(f"{w.model}: activation patching", patches * sum(map(len, tables)), "rows") as bar:
                found = [
                    activation_patching(circuits, Pairs.of(model, table, p.memory), table, bar.update)
                    for table in tables
                ]
        pd.concat(found, ignore_index=True).to_parquet(snakemake.output.correct, index=False)

"""Rule cmap: outputs and inputs of a fine-tuned model's circuit, patched into the base and back (paper, section 6)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.common.progress import progress
from mechdiff.engine.examples import clean_examples, with_scenes
from mechdiff.engine.run import Run
from mechdiff.experiments.cmap import COLUMNS, cmap, patches
from mechdiff.experiments.columns import ALL, FUNCTIONAL, not_evaluated
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.loading import open_model
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, name = snakemake.params, snakemake.wildcards.model
        table = pd.read_parquet(snakemake.input.evaluation)
        found = [pd.DataFrame(columns=["donor", "recipient", *COLUMNS])]
        circuits = {
            FUNCTIONAL: Circuit.read(snakemake.input.functional),
            ALL: Circuit.read(snakemake.input.circuit),
        }
        if circuits[ALL].groups and not not_evaluated(snakemake.input.check, snakemake.input.base_check):
            models = [open_model(Checkpoint.from_params(p.base_model)), open_model(Checkpoint.from_params(p.model))]
            base, tuned = (Run(model, clean_examples(table), p.memory) for model in models)
            with progress(f"{name}: cross-model patching", 2 * len(patches(circuits)) * len(table), "rows") as bar:
                found = [
                    cmap(into, out_of, circuits, bar.update).assign(donor=out_of.model.name, recipient=into.model.name)
                    for into, out_of in ((base, tuned), (tuned, base))
                ]
        with_scenes(pd.concat(found, ignore_index=True), table).to_parquet(snakemake.output.correct, index=False)

"""Rule evaluate_circuit: one circuit in one model, beside the model itself and random circuits (paper, section 4.3)."""

from typing import TYPE_CHECKING

import pandas as pd
from safetensors.torch import load_file

from mechdiff.circuits import Circuit
from mechdiff.common.progress import progress
from mechdiff.common.seeds import stream
from mechdiff.engine.examples import clean_examples
from mechdiff.engine.run import Run
from mechdiff.experiments.columns import not_evaluated
from mechdiff.experiments.faithfulness import evaluation_rows
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.loading import open_model
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, w = snakemake.params, snakemake.wildcards
        table = pd.read_parquet(snakemake.input.evaluation)
        means = load_file(snakemake.input.means)["means"]
        circuit, model = Circuit.read(snakemake.input.circuit), open_model(Checkpoint.from_params(p.model))
        if not_evaluated(snakemake.input.check):
            circuit = Circuit(())
        run, rng = Run(model, clean_examples(table), p.memory), stream(p.seed, "random circuits", w.circuit)
        with progress(f"{w.model}: circuit of {w.circuit}", (1 + p.random_circuits) * len(table), "rows") as bar:
            found = evaluation_rows(run, means, circuit, p.random_circuits, rng, table["scene_id"], bar.update)
        found.to_parquet(snakemake.output.correct, index=False)

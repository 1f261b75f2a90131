"""Rule dcm: which heads of a circuit carry what each desideratum names, in its own model (paper, section 5.1)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.common.files import write_text
from mechdiff.common.progress import progress
from mechdiff.common.seeds import stream
from mechdiff.experiments.dcm import Pairs, Training, curves, functional_circuit, masks, tested
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.loading import open_model
from mechdiff.provenance.records import job
from mechdiff.tasks.boxes.desiderata import PARTS

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, name, found, scenes = snakemake.params, snakemake.wildcards.model, {}, {}
        model, circuit = open_model(Checkpoint.from_params(p.model)), Circuit.read(snakemake.input.circuit)
        settings = Training(tuple(p.sparsity), p.learning_rate, p.batch_size, p.epochs)
        with progress(f"{name}: masks", p.epochs * p.rows["train"] * len(p.desiderata), "rows") as bar:
            for desideratum, file in zip(p.desiderata, snakemake.input.desiderata, strict=True):
                table, rng = pd.read_parquet(file), stream(p.seed, "dcm", name, desideratum)
                parts = {part: Pairs.of(model, table[table["part"] == part], p.memory) for part in PARTS}
                learned = masks(circuit, parts, settings, rng, bar.update)
                found |= {(group, desideratum): mask for group, mask in learned.items()}
                scenes[desideratum] = table.loc[table["part"] == "test", "scene_id"]
        curves(found).to_parquet(snakemake.output.curves, index=False)
        tested(found, scenes).to_parquet(snakemake.output.tested, index=False)
        write_text(snakemake.output.functional, functional_circuit(circuit, found, p.functions).to_json())

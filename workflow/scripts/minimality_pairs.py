"""Rule minimality_pairs: right answers without each pair of heads, on a shard of the examples (paper, appendix B)."""

from typing import TYPE_CHECKING

import pandas as pd
from safetensors.torch import load_file

from mechdiff.circuits import Circuit
from mechdiff.common.progress import progress
from mechdiff.engine.examples import clean_examples
from mechdiff.engine.run import Run
from mechdiff.experiments.faithfulness import count_correct
from mechdiff.experiments.minimality import count_pairs, pair_circuits
from mechdiff.experiments.shards import blocks
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.loading import open_model
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, w, counts = snakemake.params, snakemake.wildcards, {}
        examples = clean_examples(pd.read_parquet(snakemake.input.minimality))
        candidates, means = Circuit.read(snakemake.input.candidates), load_file(snakemake.input.means)["means"]
        run = Run(open_model(Checkpoint.from_params(p.model)), examples, p.memory)
        some = blocks(len(examples), int(w.shard), p.shards)
        n = sum(block.stop - block.start for block in some)
        most = n * sum(len(pair_circuits(candidates, group)) for group in candidates.groups)
        with progress(f"{w.model}: minimality, pairs", most, "rows") as bar:

            def evaluate(group: str, circuits: list[Circuit]) -> dict[Circuit, int]:
                return count_correct(run, means, circuits, counts, some, bar.update)

            count_pairs(candidates, evaluate, n).to_parquet(snakemake.output.pairs, index=False)

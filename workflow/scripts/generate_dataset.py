"""Rule generate_dataset: scenes and prompts of every split (paper, section 3)."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mechdiff.checkpoints import read_tokenizer
from mechdiff.config import read_objects
from mechdiff.dataset import build_dataset
from mechdiff.provenance import job
from mechdiff.task import BoxTask

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        tokenizer = read_tokenizer(Path(snakemake.input.tokenizer).parent)
        task = BoxTask(tokenizer, snakemake.params.boxes, read_objects(snakemake.input.objects))
        if task.dropped:
            print(f"mechdiff: dropped, not one token in place: {', '.join(task.dropped)}", file=sys.stderr)
        settings = snakemake.params.dataset
        tables = build_dataset(task, settings["rows"], snakemake.params.seed, settings["layout"])
        for split, table in tables.items():
            table.to_parquet(snakemake.output[split], index=False)

"""Rule generate_dataset: scenes and prompts of one split (paper, section 3)."""

import sys
from typing import TYPE_CHECKING

from mechdiff.common.reading import few
from mechdiff.common.text import plain
from mechdiff.models.checkpoints import read_tokenizer
from mechdiff.provenance.records import job
from mechdiff.tasks.boxes.dataset import build_split
from mechdiff.tasks.boxes.task import BoxTask, read_objects

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake) as notes:
        p, split = snakemake.params, snakemake.wildcards.split
        tokenizer = read_tokenizer(p.tokenizer)
        task = BoxTask(tokenizer, p.boxes, read_objects(snakemake.input.objects))
        notes["words"] = task.words
        if task.dropped:
            print(f"mechdiff: dropped, not one token in place: {plain(few(task.dropped))}", file=sys.stderr)
        build_split(task, split, p.rows, p.seed, p.layout).to_parquet(snakemake.output.split, index=False)

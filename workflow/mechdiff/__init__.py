"""mechdiff: what did fine-tuning change inside the model?

The package reads top-down as the experiment does. A module imports from those above it and never from those below:

    errors, seeds, heads       what a user can mend; random streams; heads, groups and circuits
    task, dataset              scenes, prompts and named positions; the splits
    checkpoints, hub, config   models, read without opening them; those of the hub, fetched; the configuration
    models, loading, examples  networks as they are patched; checkpoints opened for it; splits as tensors
    reference                  the plain engine: whole forward passes with hooks
    model_check                before any experiment: is the model read correctly?
    path_patching              circuit discovery (paper, section 4.1)
    evaluation, minimality     F(C), faithfulness, random circuits; pruning (section 4.2, appendix B)
    provenance, progress       where each number came from; how far long work is
    intervals, tables          what a reader sees
    audit, cli                 the ``mechdiff`` command

``family`` trains the default models; nothing else imports it.
"""

__version__ = "0.1.0"

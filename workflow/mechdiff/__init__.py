"""mechdiff: what did fine-tuning change inside the model?

The package reads top-down as the experiment does; an import never points back up:

    task, heads          scenes, prompts and named positions; heads, groups and circuits
    models               checkpoints and adapters, opened and checked
    reference            the plain engine: whole forward passes with hooks
    path_patching        circuit discovery (paper, section 4.1)
    evaluation           F(C), faithfulness, random circuits (section 4.2)
    minimality           pruning (section 4.2, appendix B)
    tables               what a reader sees
    provenance, audit    where each number came from
"""

__version__ = "0.1.0"

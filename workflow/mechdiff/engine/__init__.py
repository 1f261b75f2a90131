"""The engine: what edits of a run make of its answer, by recomputing only what they can change.

``run`` is the interface; ``edits`` says what can be asked. Below them, in the order they build on each other:
``attention``, ``capture``, ``rows``, ``cone``, the kinds of edits (``shares``, ``paths``, ``knockout``), ``memory``.
"""

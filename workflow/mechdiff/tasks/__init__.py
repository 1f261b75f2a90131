"""Tasks: what a prompt is, what its named positions are, and what is right."""

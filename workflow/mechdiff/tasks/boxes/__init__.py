"""The paper's task: which object is in the box (section 3)."""

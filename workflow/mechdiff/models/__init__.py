"""Checkpoints: found, read, opened as networks that can be patched."""

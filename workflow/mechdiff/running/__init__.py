"""A run: its configuration, what its jobs ask for, locks, and outputs put in place whole or not at all."""

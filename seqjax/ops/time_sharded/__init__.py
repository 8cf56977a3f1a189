"""Recurrences over sequences that are sharded over time."""

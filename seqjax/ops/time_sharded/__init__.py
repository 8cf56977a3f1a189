"""Recurrences over sequences that are sharded along time."""

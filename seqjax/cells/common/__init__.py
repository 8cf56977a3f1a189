"""Helpers that several cells share."""

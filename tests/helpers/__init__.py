"""Helpers that several test files share; a test file never imports from another test file."""

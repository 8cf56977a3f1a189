"""Nonlinear recurrences solved for all time steps at once, by Newton's method."""

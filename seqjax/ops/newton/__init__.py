"""Newton's method for nonlinear recurrences, which solves for all time steps in parallel."""

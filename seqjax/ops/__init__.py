"""Mathematics on plain arrays. `ops.step` is the specification; every other file computes the same faster."""

"""Functions on plain arrays. `ops.step` specifies every recurrence; other files have faster algorithms and helpers."""

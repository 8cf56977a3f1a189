"""One plain NumPy loop per cell, transcribed from its paper: what every cell is compared with.

``reference(params, carry, xs) -> (carry, ys)``, in the dtype of its inputs, with the keys of `seqjax.cells.REGISTRY`.
Of seqjax only the names and layouts of the params are used. Row vectors: the papers' ``W x`` is ``x @ w`` here.
One file per family.
"""

from references import attention, clockwork, diagonal, gated, gated_variants, matrix, nonlinear

FAMILIES = (attention, clockwork, diagonal, gated, gated_variants, matrix, nonlinear)
REFERENCES = {name: reference for family in FAMILIES for name, reference in family.REFERENCES.items()}

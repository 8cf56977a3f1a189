"""One plain NumPy loop per cell, transcribed from its paper; every cell is compared with its loop.

Each is a function ``reference(params, carry, xs) -> (carry, ys)`` in the dtype of its inputs, under a key of
`seqjax.cells.REGISTRY`. It uses only the names and layouts of seqjax's params. Vectors are rows: the papers' ``W x`` is
``x @ w`` here. There is one file per family.
"""

from references import attention, clockwork, diagonal, gated, gated_variants, matrix, nonlinear

FAMILIES = (attention, clockwork, diagonal, gated, gated_variants, matrix, nonlinear)
REFERENCES = {name: reference for family in FAMILIES for name, reference in family.REFERENCES.items()}

"""One plain NumPy loop per cell, transcribed from its paper: what every cell is compared with.

``reference(params, carry, xs) -> (carry, ys)``, in the dtype of its inputs, with the keys of `seqjax.cells.REGISTRY`.
Of seqjax only the names and layouts of the params are used. Row vectors: the papers' ``W x`` is ``x @ w`` here.
One file per family.
"""

from references import diagonal, gated, gated_variants

REFERENCES = {**gated.REFERENCES, **gated_variants.REFERENCES, **diagonal.REFERENCES}
from references import diagonal, gated, nonlinear

REFERENCES = {**gated.REFERENCES, **diagonal.REFERENCES, **nonlinear.REFERENCES}
from references import diagonal, gated, matrix

REFERENCES = {**gated.REFERENCES, **diagonal.REFERENCES, **matrix.REFERENCES}
from references import attention, diagonal, gated

REFERENCES = {**gated.REFERENCES, **diagonal.REFERENCES, **attention.REFERENCES}
from references import clockwork, diagonal, gated

REFERENCES = {**gated.REFERENCES, **clockwork.REFERENCES, **diagonal.REFERENCES}

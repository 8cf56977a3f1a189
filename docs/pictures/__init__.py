"""The pictures of `docs/instruments.md`: each probe measures a tiny system, and the closed form is drawn beside it.

``make pictures`` draws all of them; ``PYTHONPATH=docs python -m pictures NAME ...`` draws some.
"""

from pictures import chaos, cost, gates, noise, precision, reach, truncation
from pictures.base import Curve, Picture, drawn, numbers, numbers_in

PICTURES = (
    *reach.PICTURES,
    *chaos.PICTURES,
    *precision.PICTURES,
    *truncation.PICTURES,
    *noise.PICTURES,
    *gates.PICTURES,
    *cost.PICTURES,
)
"""In the order of the page."""

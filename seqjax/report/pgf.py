r"""Write a figure as PGF, for ``\input`` in LaTeX, on machines without LaTeX.

Matplotlib's own PGF output starts LaTeX to measure texts. Here its fonts measure them. LaTeX sets the texts in the
font of the document, by the anchors of matplotlib, so a measure that is a little off moves no text.
"""

import io
from typing import Any

from matplotlib.backends.backend_pgf import RendererPgf
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.textpath import text_to_path

from seqjax.report.latex import latex

_HEAD = r"""%% {name}: needs \usepackage{{pgf}}; \input this file from its own folder, or use the package import.
\begingroup%
\makeatletter%
\begin{{pgfpicture}}%
\pgfpathrectangle{{\pgfpointorigin}}{{\pgfqpoint{{{width:f}in}}{{{height:f}in}}}}%
\pgfusepath{{use as bounding box, clip}}%
"""
_TAIL = r"""\end{pgfpicture}%
\makeatother%
\endgroup%
"""


def pgf(figure: Figure, name: str) -> tuple[str, dict[str, bytes]]:
    """Return a figure as PGF, and the images that it includes by file name.

    Args:
        figure: a figure of 72 dots per inch.
        name: name of its file, without the ending; images are named after it.
    """
    file = io.StringIO()
    file.write(_HEAD.format(name=name, width=figure.get_figwidth(), height=figure.get_figheight()))
    renderer = _Renderer(figure, file, name)
    figure.draw(renderer)
    file.write(_TAIL)
    return file.getvalue(), renderer.images


class _Renderer(RendererPgf):
    """Measures texts with matplotlib's fonts, writes them as LaTeX, and keeps images in memory."""

    def __init__(self, figure: Figure, file: io.StringIO, name: str) -> None:
        super().__init__(figure, file)
        self.name = name
        self.images: dict[str, bytes] = {}

    def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> tuple[float, float, float]:
        return text_to_path.get_text_width_height_descent(s, prop, False)  # in points, which are dots here

    def draw_text(
        self,
        gc: Any,
        x: float,
        y: float,
        s: str,
        prop: Any,
        angle: float,
        ismath: Any = False,
        mtext: Any = None,
    ) -> None:
        prop = prop.copy()
        prop.set_family("serif")  # \rmfamily, the font of the document
        super().draw_text(gc, x, y, latex(s), prop, angle, False, mtext)

    def draw_image(self, gc: Any, x: float, y: float, im: Any, transform: Any = None) -> None:
        height, width = im.shape[:2]
        if not (height and width):
            return
        buffer = io.BytesIO()
        imsave(buffer, im[::-1], format="png")
        file = f"{self.name}-image{len(self.images)}.png"
        self.images[file] = buffer.getvalue()
        if transform is None:
            place, size = (
                rf"\pgfsys@transformshift{{{x / 72:f}in}}{{{y / 72:f}in}}",
                (width / 72, height / 72),
            )
        else:
            a, b, c, d, e, f = transform.frozen().to_values()
            matrix = "".join(f"{{{value / 72:f}}}" for value in (a, b, c, d))
            place, size = (
                rf"\pgfsys@transformcm{matrix}{{{(e + x) / 72:f}in}}{{{(f + y) / 72:f}in}}",
                (1.0, 1.0),
            )
        box = f"interpolate=false,width={size[0]:f}in,height={size[1]:f}in"
        clip = gc.get_clip_rectangle()
        lines = [
            r"\begin{pgfscope}",
            place,
            rf"\pgftext[left,bottom]{{\pgfimage[{box}]{{{file}}}}}",
            r"\end{pgfscope}",
        ]
        if clip is not None:
            corner, sides = (rf"\pgfqpoint{{{p / 72:f}in}}{{{q / 72:f}in}}" for p, q in (clip.p0, clip.size))
            lines[1:1] = [rf"\pgfpathrectangle{{{corner}}}{{{sides}}}", r"\pgfusepath{clip}"]
        self.fh.write("".join(f"{line}%\n" for line in lines))

"""Figures that cannot go stale: every number in what people read comes out of a file.

=============  =======================================================================
module         what it does
=============  =======================================================================
``files``      a file of figures, with the commit that they were measured on
``pages``      puts figures into pages: a role and a directive, regions of Markdown
``prose``      finds measured numbers that come out of no file
``__main__``   ``python -m continuous_integration.figures``
=============  =======================================================================
"""

from continuous_integration.figures.files import (
    FOLDER,
    ROOT,
    SCHEDULER,
    Figures,
    figures_option,
    write_figures,
)

__all__ = ["FOLDER", "ROOT", "SCHEDULER", "Figures", "figures_option", "write_figures"]

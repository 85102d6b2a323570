"""Partial module: the part of ``distributed.dashboard.scheduler`` that differs.

The build puts these definitions into the base's module; what happens to which name is
written down in ``continuous_integration/fork/divergence.json``.
"""

from __future__ import annotations

from distributed.dashboard.components.rootish import (
    INTERVAL,
    RootishGroups,
    rootish_doc,
)

applications["/rootish"] = rootish_doc
applications["/individual-rootish"] = individual_doc(RootishGroups, INTERVAL)


def template_variables(scheduler):
    """Return the variables of the templates of all pages, with ours in the menu."""
    variables = _template_variables_any(scheduler)
    pages = list(variables["pages"])
    pages.insert(pages.index("groups") + 1, "rootish")
    return {**variables, "pages": pages}

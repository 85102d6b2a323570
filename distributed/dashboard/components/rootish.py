"""The dashboard's page on what is held back, and why.

Groups are named by the keys that users choose. A name is shown by a template that
escapes it, and nowhere else.
"""

from __future__ import annotations

import heapq
import html
from typing import TYPE_CHECKING, Any

from bokeh.core.properties import without_property_validation
from bokeh.layouts import column
from bokeh.models import ColumnDataSource
from bokeh.models.widgets import (
    DataTable,
    Div,
    HTMLTemplateFormatter,
    NumberFormatter,
    TableColumn,
)
from dask.utils import format_bytes

from distributed.dashboard.components import DashboardComponent
from distributed.dashboard.components.scheduler import env, individual_doc
from distributed.dashboard.utils import update
from distributed.metrics import thread_time
from distributed.rootish.monitor import (
    CHUNKS_PER_SLOT,
    count_slots,
    count_waiting,
    waits_for,
)
from distributed.rootish.queue import WAITS
from distributed.utils import log_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bokeh.document import Document

    from distributed.rootish.monitor import GroupStatus, RootishStatus
    from distributed.scheduler import Scheduler

#: Groups that are shown at most
MAX_GROUPS = 100

#: How often the page looks whether there is news, in milliseconds
INTERVAL = 500

#: Part of the scheduler's time that an open page may take
SHARE = 0.05

#: States of tasks that are counted, and that mean that a group is not done with
_STATES = ("waiting", "queued", "processing", "memory")
_ACTIVE = _STATES[:-1]

_VERDICTS = {True: "yes", False: "no", None: "undecided"}

# `<%-` escapes, `<%=` does not and is for numbers and words of ours
_TEXT = '<span title="<%- value %>"><%- value %></span>'
_NAME = '<code title="<%- value %>"><%- value %></code>'
_VERDICT = '<span class="verdict <%= value %>"><%= value %></span>'
_BYTES = """
<div class="bytes" title="<%- bytes %>">
  <%- bytes %>
  <div class="bar <%= over %>" style="width: <%= filled %>%"></div>
  <div class="tick <%= limited %>" style="left: <%= limit %>%"></div>
</div>
"""
#: A part of the bar for each reason, by its color
_WAITS = (
    """
<div class="bytes" title="<%- waits %>">
  <%- waits %>
  <div class="parts">"""
    + "".join(
        f"""
    <div class="{reason}" style="width: <%= {reason} %>%"></div>"""
        for reason in WAITS
    )
    + """
  </div>
</div>
"""
)

_STYLE = """
:host { z-index: 0; }
.slick-header-column { font-weight: bold; }
.slick-cell { line-height: 26px; }
.verdict { border: 1px solid; border-radius: 8px; padding: 1px 8px; }
.verdict.yes { background: #2166ac; border-color: #2166ac; color: white; }
.verdict.no { background: #e4e4e4; border-color: #e4e4e4; color: #333; }
.verdict.undecided { border-color: #aaa; border-style: dashed; color: #555; }
.bytes { position: relative; height: 26px; line-height: 20px; }
.bar { position: absolute; left: 0; bottom: 3px; height: 5px; background: #67a9cf; }
.bar.over { background: #d95f0e; }
.tick { position: absolute; bottom: 0; width: 2px; height: 11px; background: #222; }
.tick.unlimited { display: none; }
.parts { position: absolute; left: 0; bottom: 3px; height: 5px; width: 100%; }
.parts { display: flex; }
.order { background: #bdbdbd; }
.family { background: #67a9cf; }
.backpressure { background: #d95f0e; }
.restrictions { background: #7b3294; }
"""

#: Field, title, width, and template or None for a number
_COLUMNS = (
    ("name", "Group", 190, _NAME),
    ("verdict", "Root-ish", 85, _VERDICT),
    ("tasks", "Tasks", 55, None),
    ("waiting", "Waiting", 60, None),
    ("queued", "Queued", 60, None),
    ("processing", "Processing", 75, None),
    ("memory", "In memory", 75, None),
    ("nbytes", "Bytes in memory, allowed", 170, _BYTES),
    ("waits", "Queued for", 150, _WAITS),
    ("reason", "Reason", 360, _TEXT),
)


class RootishGroups(DashboardComponent):
    """Task groups: whether and why they are held back, and what is in memory of them.

    Those that are active and have, or may have, the most bytes in memory come first.

    Parameters
    ----------
    scheduler
        Its extension ``rootish`` knows the groups. Without it there is nothing to see.
    **kwargs
        How the plot is laid out, such as ``sizing_mode``.
    """

    scheduler: Scheduler
    source: ColumnDataSource

    @log_errors
    def __init__(self, scheduler: Scheduler, **kwargs: Any):
        self.scheduler = scheduler
        #: What was true of the scheduler when it was looked at last
        self._seen: object = None
        #: How many updates to leave out, so that the page does not take too long
        self._rest = 0
        self.source = ColumnDataSource(_columns([]))
        self.summary = Div(
            text="This scheduler has no extension that knows what is root-ish.",
            disable_math=True,
        )
        self.table = DataTable(
            source=self.source,
            columns=[
                TableColumn(
                    field=field,
                    title=title,
                    width=width,
                    formatter=(
                        NumberFormatter(format="0,0", text_align="right")
                        if template is None
                        else HTMLTemplateFormatter(template=template)
                    ),
                )
                for field, title, width, template in _COLUMNS
            ],
            index_position=None,
            reorderable=False,
            row_height=30,
            stylesheets=[_STYLE],
            **kwargs,
        )
        self.root = column(self.summary, self.table, **kwargs)

    @without_property_validation  # type: ignore[untyped-decorator]
    @log_errors
    def update(self) -> None:
        """Show what is new, if anything is."""
        monitor = self.scheduler.extensions.get("rootish")
        if monitor is None:
            return
        if self._rest:
            self._rest -= 1
            return
        # All that is shown changes by transitions, but for the number of slots. To look
        # at ten thousand groups takes a tenth of a second, to look at these two nothing
        seen = self.scheduler.transition_counter, count_slots(self.scheduler)
        if seen == self._seen:
            return
        self._seen = seen
        start = thread_time()
        status = monitor.status()
        groups = heapq.nsmallest(MAX_GROUPS, status.groups, key=_rank)
        self.summary.text = _summary(status, len(groups))
        update(self.source, _columns(groups))
        # Bokeh 3.9.1 and 3.9.2 draw new data only if there are more rows or fewer
        # (bokeh#15328), but always when anything about the view changes
        self.table.view.tags = [self.scheduler.transition_counter]
        self._rest = int((thread_time() - start) / SHARE / INTERVAL * 1000)


def _rank(group: GroupStatus) -> tuple[bool, float]:
    """Return what groups are sorted by.

    What is in memory of a loader goes up and down. What is allowed does not, and keeps
    rows from changing places all the time.
    """
    active = any(group.states.get(state) for state in _ACTIVE)
    return not active, -max(group.nbytes, group.allowed or 0)


def _columns(groups: list[GroupStatus]) -> dict[str, list[Any]]:
    """Return the table, by columns, with all bars of a column on one scale."""
    full = max((max(g.nbytes, g.allowed or 0) for g in groups), default=0) or 1
    queued = max((sum(g.waits.values()) for g in groups), default=0) or 1
    return {
        "name": [g.name for g in groups],
        "verdict": [_VERDICTS[g.rootish] for g in groups],
        "tasks": [g.tasks for g in groups],
        **{state: [g.states.get(state, 0) for g in groups] for state in _STATES},
        "nbytes": [g.nbytes for g in groups],
        "bytes": [_bytes(g) for g in groups],
        "filled": [100 * g.nbytes / full for g in groups],
        # The tick is at the end of its part, inside of the cell
        "limit": [99 * (g.allowed or 0) / full for g in groups],
        "limited": ["unlimited" if g.allowed is None else "" for g in groups],
        "over": [
            "over" if g.allowed is not None and g.nbytes > g.allowed else ""
            for g in groups
        ],
        "waits": [count_waiting(g.waits) for g in groups],
        **{
            reason: [100 * g.waits.get(reason, 0) / queued for g in groups]
            for reason in WAITS
        },
        "reason": [g.explanation or "Not decided yet." for g in groups],
    }


def _bytes(group: GroupStatus) -> str:
    """Return the bytes of a group as text."""
    if group.output is None:
        return "?"
    text = format_bytes(round(group.nbytes))
    if group.allowed is None:
        return text
    return f"{text} of {format_bytes(round(group.allowed))}"


def _summary(status: RootishStatus, shown: int) -> str:
    """Return what is above the table, as HTML."""
    slots = "no queue" if status.slots is None else f"{status.slots:,d} slots"
    rootish = sum(bool(group.rootish) for group in status.groups)
    parts = [
        f"Policy <b>{html.escape(status.policy)}</b>",
        slots,
        f"{status.queued:,d} tasks queued",
        f"{len(status.groups):,d} groups, {rootish:,d} of them root-ish",
    ]
    if left_out := len(status.groups) - shown:
        parts.append(
            f"<b>{left_out:,d} groups are left out</b>: those at rest, then those with "
            "few bytes"
        )
    legend = (
        "A tick marks what may be in memory of a group that is held back: "
        f"{CHUNKS_PER_SLOT} chunks for each slot. Bytes in memory are estimated from "
        "the mean output of the group."
    )
    text = " &middot; ".join(parts)
    if sentence := waits_for(status.waits()):
        text += f"<br>{sentence}."
    return f"{text}<br><span style='color: #666'>{legend}</span>"


@log_errors
def rootish_doc(scheduler: Scheduler, extra: Mapping[str, Any], doc: Document) -> None:
    """Fill the page ``/rootish``.

    Parameters
    ----------
    scheduler
        What it is about.
    extra
        Variables of the template, such as the pages of the menu.
    doc
        The page.
    """
    individual_doc(RootishGroups, INTERVAL, scheduler, extra, doc)
    doc.title = "Dask: Root-ish"
    doc.template = env.get_template("simple.html")
    doc.template_variables.update(extra)

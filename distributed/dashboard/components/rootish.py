"""The dashboard's page on what is held back, and why.

Groups are named by the keys that users choose. What is shown of them can be printed and
is bounded; a template escapes it, or this module where it is in a text.
"""

from __future__ import annotations

import heapq
import html
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bokeh.core.properties import without_property_validation
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, CustomJS
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
from distributed.rootish.loading import CHUNKS_PER_SLOT, count_slots
from distributed.rootish.monitor import count_waiting, waits_for
from distributed.rootish.queue import WAITS
from distributed.rootish.tables import (
    NAME,
    NO_QUEUE,
    TOOLTIP,
    Advice,
    advice_on,
    html_advice,
    link_to,
    printable,
    shorten,
    size,
    some_names,
)
from distributed.utils import log_errors

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from bokeh.document import Document

    from distributed.rootish.history import ComputationStatus, PastGroups
    from distributed.rootish.monitor import GroupStatus, RootishStatus
    from distributed.scheduler import Scheduler

#: A browser tells which row was clicked, not at which place: others may have come
#: meanwhile. The time makes it known that a row is clicked once more.
_CLICK = """
const [place] = source.selected.indices
if (place !== undefined) {
    source.tags = [source.data.id[place], Date.now()]
    source.selected.indices = []
}
"""

#: Rows that are shown at most: folded ones, groups of one that is unfolded, and all
MAX_ROWS = 50
MAX_PARTS = 50
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
_NAME = """
<code title="<%- full %>"><%- value %></code>
<span class="unfold"><%- unfold %></span>
"""
_REASON = """
<div class="reason <%= wrong %>" title="<%- value %> <%- advice %>">
  <div><%- value %></div>
  <div class="advice"><%- advice %>
    <a class="<%= linked %>" href="<%- link %>" target="_blank">More</a>
  </div>
</div>
"""
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
.unfold { color: #2166ac; cursor: pointer; }
.reason { line-height: 18px; padding-top: 3px; }
.reason div { overflow: hidden; text-overflow: ellipsis; }
.advice { color: #666; font-size: 90%; }
.wrong .advice { color: #b35806; font-weight: bold; }
.advice a.none { display: none; }
"""

#: What something wrong is written on, above the table
_WARNING = "background: #fee8c8; border-left: 4px solid #d95f0e; padding: 3px 8px"

#: Height of a row of groups, and of the table of computations, in pixels
_ROW = 44
_PAST_HEIGHT = 160

_BYTES_NOW, _BYTES_THEN = "Bytes in memory, allowed", "Most bytes in memory"

#: Field, title, width, and template or None for a number
_COLUMNS = (
    ("name", "Group", 200, _NAME),
    ("verdict", "Root-ish", 80, _VERDICT),
    ("tasks", "Tasks", 55, None),
    ("waiting", "Waiting", 55, None),
    ("queued", "Queued", 55, None),
    ("processing", "Processing", 70, None),
    ("memory", "In memory", 70, None),
    ("nbytes", _BYTES_NOW, 160, _BYTES),
    ("waits", "Queued for", 130, _WAITS),
    ("reason", "Reason, and what to do", 420, _REASON),
)
#: Those that mean nothing once a computation is done
_NOW = (*_STATES, "waits")

_PAST_COLUMNS = (
    ("title", "Computation", 240, _TEXT),
    ("began", "Began", 130, _TEXT),
    ("took", "Took", 70, _TEXT),
    ("tasks", "Tasks", 60, None),
    ("made", "Made", 80, _TEXT),
    ("peak", "Peak in memory", 105, _TEXT),
    ("of_worker", "On the fullest worker", 140, _TEXT),
    ("moved", "Moved", 80, _TEXT),
    ("at_peak", "At the peak", 300, _TEXT),
    ("outcome", "Too much, not held back", 170, _TEXT),
)


class RootishGroups(DashboardComponent):
    """Task groups: whether and why they are held back, and what is in memory of them.

    Those of one name that were judged alike make one row, which unfolds when it is
    clicked. Those that are active and have, or may have, the most bytes in memory come
    first. Below are the last computations. If one is clicked, or nothing else is there,
    what became of its groups is shown.

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
        #: How often it was drawn
        self._drawn = 0
        #: How many updates to leave out, so that the page does not take too long
        self._rest = 0
        #: Ids of rows that are unfolded
        self._unfolded: set[str] = set()
        #: The computation that is shown, None for what is there now
        self._chosen: str | None = None
        self.source = ColumnDataSource(_columns([]))
        self.past = ColumnDataSource(_past_columns([]))
        for source, clicked in ((self.source, self._click), (self.past, self._choose)):
            source.selected.js_on_change(
                "indices", CustomJS(args={"source": source}, code=_CLICK)
            )
            source.on_change("tags", clicked)
        self.summary = Div(
            text="This scheduler has no extension that knows what is root-ish.",
            disable_math=True,
        )
        self.table = _table(self.source, _COLUMNS, row_height=_ROW, **kwargs)
        layout = {**kwargs}
        if kwargs.get("sizing_mode") == "stretch_both":
            layout["sizing_mode"] = "stretch_width"
        self.past_table = _table(
            self.past, _PAST_COLUMNS, row_height=28, height=_PAST_HEIGHT, **layout
        )
        self.root = column(self.summary, self.table, self.past_table, **kwargs)

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
        self._show(monitor.status())
        self._rest = int((thread_time() - start) / SHARE / INTERVAL * 1000)

    def _show(self, status: RootishStatus) -> None:
        """Show what there is, or what became of a computation."""
        past = status.computations
        ids = [each.id for each in past]
        if self._chosen not in ids:
            self._chosen = None
        chosen = self._chosen
        if chosen is None and not status.groups and past:
            chosen = past[0].id
        queue = status.slots is not None
        wrong: list[GroupStatus | PastGroups]
        if chosen is not None:
            computation = past[ids.index(chosen)]
            lines = [_Line.of_the_past(group, queue) for group in computation.groups]
            heading = f"What became of the computation of {computation.headline()}."
            if self._chosen:
                heading += " Click it again for what there is now."
            wrong = [*computation.overproducing()]
        else:
            lines = _fold(status.groups, queue)
            heading = ""
            wrong = status.overproducing() if status.groups else []
        for each in self.table.columns:
            if each.field in _NOW:
                each.visible = chosen is None
            if each.field == "nbytes":
                each.title = _BYTES_NOW if chosen is None else _BYTES_THEN
        problems = {(group.prefix, group.reason) for group in wrong}
        for line in lines:
            line.wrong = line.key in problems
        total = sum(line.groups for line in lines)
        lines = heapq.nsmallest(MAX_ROWS, lines, key=_Line.rank)
        left_out = total - sum(line.groups for line in lines)
        self.summary.text = _summary(status, left_out, heading, lines)
        shown = [*_unfold(lines, self._unfolded)][:MAX_GROUPS]
        update(self.source, _columns(shown))
        update(self.past, _past_columns(past))
        # Bokeh 3.9.1 and 3.9.2 draw new data only if there are more rows or fewer
        # (bokeh#15328), but always when anything about the view changes
        self._drawn += 1
        for table in (self.table, self.past_table):
            table.view.tags = [self._drawn]

    def _again(self) -> None:
        """Look again, though nothing has happened."""
        self._seen = None
        self._rest = 0
        self.update()

    def _click(self, attr: str, old: list[Any], new: list[Any]) -> None:
        """Unfold the row that was clicked, or fold it."""
        if new[0]:
            self._unfolded ^= {new[0]}
            self._again()

    def _choose(self, attr: str, old: list[Any], new: list[Any]) -> None:
        """Show the computation that was clicked, or what there is now."""
        self._chosen = None if new[0] == self._chosen else new[0]
        self._again()


@dataclass
class _Line:
    """A row of the table: groups of one name that were judged alike, or one group."""

    key: object
    name: str
    groups: int
    tasks: int
    rootish: bool | None
    reason: str | None
    explanation: str | None
    advice: Advice | None
    nbytes: float
    known: bool
    allowed: float | None = None
    states: Mapping[str, int] = field(default_factory=dict)
    waits: Mapping[str, int] = field(default_factory=dict)
    parts: Sequence[GroupStatus] = ()
    wrong: bool = False
    unfolded: bool = False

    @classmethod
    def of(cls, members: Sequence[GroupStatus], queue: bool) -> _Line:
        """Make it of groups."""
        first = members[0]
        states: Counter[str] = Counter()
        waits: Counter[str] = Counter()
        for group in members:
            states.update(group.states)
            waits.update(group.waits)
        # One queue serves all of them
        allowed = [group.allowed for group in members if group.allowed is not None]
        return cls(
            key=(first.prefix, first.reason),
            name=first.prefix,
            groups=len(members),
            tasks=sum(group.tasks for group in members),
            rootish=first.rootish,
            reason=first.reason,
            explanation=first.explanation,
            advice=advice_on(first.reason, queue),
            nbytes=sum(group.nbytes for group in members),
            known=any(group.output is not None for group in members),
            allowed=max(allowed, default=None),
            states=states,
            waits=waits,
            parts=members if len(members) > 1 else (),
        )

    @classmethod
    def of_the_past(cls, groups: PastGroups, queue: bool) -> _Line:
        """Make it of what became of groups; what they held is that at the most."""
        return cls(
            key=(groups.prefix, groups.reason),
            name=groups.prefix,
            groups=groups.groups,
            tasks=groups.tasks,
            rootish=groups.rootish,
            reason=groups.reason,
            explanation=groups.explanation,
            advice=advice_on(groups.reason, queue),
            nbytes=groups.peak or 0,
            known=groups.peak is not None,
        )

    @property
    def id(self) -> str:
        """What tells rows apart in a browser; empty if it makes no difference."""
        return "" if self.key is None else f"{hash(self.key):x}"

    def rank(self) -> tuple[bool, float]:
        """Return what rows are sorted by.

        What is in memory of a loader goes up and down. What is allowed does not, and
        keeps rows from changing places all the time.
        """
        active = any(self.states.get(state) for state in _ACTIVE)
        return not active, -max(self.nbytes, self.allowed or 0)

    def unfold(self) -> str:
        """Return what stands behind the name."""
        if self.groups == 1:
            return ""
        sign = (
            "\N{BLACK DOWN-POINTING SMALL TRIANGLE}"
            if self.unfolded
            else "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}"
        )
        return f"{self.groups:,d} groups {sign if self.parts else ''}"

    def bytes(self) -> str:
        """Return its bytes as text."""
        if not self.known:
            return "?"
        text = format_bytes(round(self.nbytes))
        if self.allowed is None:
            return text
        return f"{text} of {format_bytes(round(self.allowed))}"


def _fold(groups: Iterable[GroupStatus], queue: bool) -> list[_Line]:
    """Make one row of all groups of one name that were judged alike."""
    together: dict[object, list[GroupStatus]] = {}
    for group in groups:
        together.setdefault((group.prefix, group.reason), []).append(group)
    return [_Line.of(members, queue) for members in together.values()]


def _unfold(lines: Iterable[_Line], unfolded: Container[str]) -> Iterator[_Line]:
    """Yield rows, and below those that are unfolded, the groups of which they are."""
    for line in lines:
        line.unfolded = bool(line.parts) and line.id in unfolded
        yield line
        if line.unfolded:
            queue = line.advice is not NO_QUEUE
            parts = [_Line.of([group], queue) for group in line.parts]
            for part, group in zip(parts, line.parts):
                part.name = f"\N{NO-BREAK SPACE}\N{BULLET} {group.name}"
                part.key = None
            yield from heapq.nsmallest(MAX_PARTS, parts, key=_Line.rank)


def _columns(lines: Sequence[_Line]) -> dict[str, list[Any]]:
    """Return the table, by columns, with all bars of a column on one scale."""
    full = max((max(g.nbytes, g.allowed or 0) for g in lines), default=0) or 1
    queued = max((sum(g.waits.values()) for g in lines), default=0) or 1
    links = [link_to(g.advice.section) if g.advice else "" for g in lines]
    return {
        "id": [g.id for g in lines],
        "name": [shorten(g.name, NAME) for g in lines],
        "full": [shorten(g.name, TOOLTIP) for g in lines],
        "unfold": [g.unfold() for g in lines],
        "verdict": [_VERDICTS[g.rootish] for g in lines],
        "tasks": [g.tasks for g in lines],
        **{state: [g.states.get(state, 0) for g in lines] for state in _STATES},
        "nbytes": [g.nbytes for g in lines],
        "bytes": [g.bytes() for g in lines],
        "filled": [100 * g.nbytes / full for g in lines],
        # The tick is at the end of its part, inside of the cell
        "limit": [99 * (g.allowed or 0) / full for g in lines],
        "limited": ["unlimited" if g.allowed is None else "" for g in lines],
        "over": [
            "over" if g.allowed is not None and g.nbytes > g.allowed else ""
            for g in lines
        ],
        "waits": [count_waiting(g.waits) for g in lines],
        **{
            reason: [100 * g.waits.get(reason, 0) / queued for g in lines]
            for reason in WAITS
        },
        "reason": [printable(g.explanation or "Not decided yet.") for g in lines],
        "advice": [g.advice.text if g.advice else "" for g in lines],
        # There is no address where it was not installed from one
        "link": [link if "://" in link else "" for link in links],
        "linked": ["" if "://" in link else "none" for link in links],
        "wrong": ["wrong" if g.wrong else "" for g in lines],
    }


def _past_columns(past: Iterable[ComputationStatus]) -> dict[str, list[Any]]:
    """Return the table of computations, by columns."""
    shown = list(past)[:MAX_ROWS]
    wrong = [each.overproducing() for each in shown]
    return {
        "id": [each.id for each in shown],
        "title": [each.title() for each in shown],
        "began": [each.began() for each in shown],
        "took": [each.took() for each in shown],
        "tasks": [each.tasks for each in shown],
        "made": [size(each.nbytes) for each in shown],
        "peak": [size(each.peak) for each in shown],
        "of_worker": [size(each.peak_of_worker) for each in shown],
        "moved": [size(each.moved) for each in shown],
        "at_peak": [each.held_at_peak() for each in shown],
        "outcome": [some_names(group.prefix for group in groups) for groups in wrong],
    }


def _table(
    source: ColumnDataSource,
    columns: Iterable[tuple[str, str, int, str | None]],
    **kwargs: Any,
) -> DataTable:
    """Return a table of what is in the source."""
    return DataTable(
        source=source,
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
            for field, title, width, template in columns
        ],
        index_position=None,
        reorderable=False,
        stylesheets=[_STYLE],
        **kwargs,
    )


def _summary(
    status: RootishStatus, left_out: int, heading: str, lines: Iterable[_Line]
) -> str:
    """Return what is above the table, as HTML."""
    slots = "no queue" if status.slots is None else f"{status.slots:,d} slots"
    rootish = sum(bool(group.rootish) for group in status.groups)
    parts = [
        f"Policy <b>{html.escape(status.policy)}</b>",
        slots,
        f"{status.queued:,d} tasks queued",
        f"{len(status.groups):,d} groups, {rootish:,d} of them root-ish",
    ]
    if left_out:
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
    if heading:
        text += f"<br><b>{html.escape(heading)}</b>"
        legend = (
            "Bytes in memory are the most that was seen of all tasks of a name, some "
            "times a second."
        )
    text += f"<br><span style='color: #666'>{legend}</span>"
    for line in lines:
        if line.wrong:
            advice = f" {html_advice(line.advice)}" if line.advice else ""
            text += (
                f"<div style='{_WARNING}'>Not held back, and more than the cluster "
                f"consumes at once: <b>{html.escape(shorten(line.name, NAME))}</b>. "
                f"{html.escape(line.explanation or '')}{advice}</div>"
            )
            break
    return text


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

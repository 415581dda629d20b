"""What is done from the page: the same acts as the commands', on the rows that a form names.

Rule 1. Every act is shown with the number of rows before it is done (`Plan`), and done with `do`.
Rule 2. The name of who does it stands in the history of each row, and in the log.

Raises Misasked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from poller.frozen import dataclass
from poller.log import get_logger
from poller.outbox.operate import Changed, NotInDoubt, Selection, change, count, named, pause_all, resolve, resume_all
from poller.statuses import NAMES, Action
from poller.web.views import LARGEST_ID, Misasked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from poller.outbox import Engine
    from poller.web.views import Views

IDS_AT_ONCE = 2000

Verb = Action | str
SWITCHES: Final = ("switch-off", "switch-on")

WORDS: Final[dict[str, tuple[str, str]]] = {
    "retry": ("Start again", "started again"),
    "pause": ("Hold back", "held back"),
    "resume": ("Let go", "let go"),
    "cancel": ("Give up", "given up"),
    "resolve-sent": ("It was delivered", "taken as sent"),
    "resolve-resend": ("Send it again", "sent again"),
    "resolve-failed": ("It was not delivered", "taken as failed"),
    "switch-off": ("Switch everything off", "switched off"),
    "switch-on": ("Switch everything on", "switched on"),
}
"""What stands on the button, and what is said afterwards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What an act would touch. `about` says which rows, in words."""

    act: str
    about: str
    rows: int
    by_status: Mapping[str, int]


class Acts:
    """Reads forms: `act`, and which rows: `id`, `batch`, `status`, `domain`; or a cause as `failures` counts them."""

    def __init__(self, engine: Engine, views: Views) -> None:
        self._engine, self._views = engine, views

    def plan(self, form: Mapping[str, str]) -> Plan:
        """What it would do."""
        act = _known(form)
        if act in SWITCHES:
            return Plan(act=act, about="the whole outbox, for every worker", rows=0, by_status={})
        if form.get("address"):
            return Plan(act=act, about=f"{form['address']} of row {_row_id(form)}", rows=1, by_status={"in_doubt": 1})
        by_status: dict[str, int] = {}
        for some in self._chosen(form):
            for status, number in count(self._engine, some, _action(act)).items():
                by_status[status] = by_status.get(status, 0) + number
        return Plan(act=act, about=_about(form), rows=sum(by_status.values()), by_status=by_status)

    def do(self, form: Mapping[str, str], name: str) -> Changed:
        """Do it to the rows that are chosen now."""
        act, by = _known(form), named(name)
        done = self._do(act, form, by)
        words = {"action": act, "by": by, "rows": done.rows}
        get_logger().info("operator.acted", **words)
        return done

    def _do(self, act: str, form: Mapping[str, str], by: str) -> Changed:
        if act == "switch-off":
            why = " ".join(form.get("why", "").split()) or "from the page"
            pause_all(self._engine, f"{why[:200]} ({by})")
            return Changed()
        if act == "switch-on":
            resume_all(self._engine)
            return Changed()
        if form.get("address"):
            return self._settle(form, _action(act), by)
        some = (change(self._engine, chosen, _action(act), by=by) for chosen in self._chosen(form))
        return sum(some, Changed())

    def _settle(self, form: Mapping[str, str], action: Action, by: str) -> Changed:
        try:
            resolve(self._engine, _row_id(form), [form["address"]], action, by=by)
        except NotInDoubt as why:
            raise Misasked(str(why)) from None
        return Changed(rows=1)

    def _chosen(self, form: Mapping[str, str]) -> Iterator[Selection]:
        if "cause" in form:
            found = self._views.of_one_cause(
                by=form.get("by", "reason"),
                cause=form["cause"],
                since=form.get("since", "1d"),
                batch=form.get("batch") or None,
            )
            ids = [*dict.fromkeys(one.row_id for one in found)]
            for begin in range(0, len(ids), IDS_AT_ONCE):
                yield Selection(ids=tuple(ids[begin : begin + IDS_AT_ONCE]))
            return
        status = form.get("status") or None
        if status is not None and status not in NAMES:
            raise Misasked(f"there is no status {status!r}")
        ids = [_row_id(form)] if "id" in form else []
        try:
            yield Selection(
                ids=tuple(ids), batch=form.get("batch") or None, status=status, domain=form.get("domain") or None
            )
        except ValueError:
            raise Misasked("no rows are named") from None


def _known(form: Mapping[str, str]) -> str:
    act = form.get("act", "")
    if act not in WORDS:
        raise Misasked("there is no such act")
    return act


def _action(act: str) -> Action:
    found: dict[str, Action] = {name: name for name in get_args(Action)}
    return found[act]


def _row_id(form: Mapping[str, str]) -> int:
    text = form.get("id", "")
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) <= LARGEST_ID:
        raise Misasked("no row is named")
    return int(text)


def _about(form: Mapping[str, str]) -> str:
    """Which rows, in words."""
    if "cause" in form:
        batch, since = form.get("batch"), form.get("since", "1d")
        what = f"failures of batch {batch}" if batch else "failures"
        return f"{what} of the last {since}, {form.get('by', 'reason')}: {form['cause']}"
    names = {"id": "row", "batch": "batch", "status": "status", "domain": "destination"}
    return ", ".join(f"{word} {form[name]}" for name, word in names.items() if form.get(name))

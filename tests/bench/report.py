"""From the book to `docs/performance.md`: tables and charts between the markers; the words around them stay.

No figure is typed by hand: what the book does not hold is said to be not measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench import chart
from bench.chart import short
from bench.measures import turns
from bench.targets import KINDS, TARGETS, TIMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.book import Book
    from bench.targets import Target

DOCS = Path(__file__).parents[2] / "docs"
TARGETS_TITLE, NOT_MEASURED, _UNKNOWN = "Against the targets", "Not measured.", "| not measured |"
BEGIN, END = "<!-- figures: begin (written by tests/bench/run.py --write) -->", "<!-- figures: end -->"
NAMES = {
    **{kind: f"poller, {name}" for kind, name in KINDS.items()},
    "overlap": "poller, overlapped",
    "transaction": "poller, one transaction at a time",
    "post_office": "django-post_office",
    "post_office_default": "django-post_office, as it comes",
    "mailer": "django-mailer",
    "naive": "naive loop",
    "smtp-source": "smtp-source -d -s 1",
}
STAGES = {
    "empty": "nothing but due rows",
    "sent": "1M sent",
    "scheduled": "and 1M for tomorrow at priority 0",
    "paused": "and 100k paused at the head",
    "ten million sent": "10M sent",
    "two workers": "two workers at once",
}


def write(book: Book, docs: Path = DOCS) -> None:
    """Replace what stands between the markers, and the charts; what the book does not hold stays as it was."""
    page = docs / "performance.md"
    before, _, rest = page.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    charts = docs / "performance"
    charts.mkdir(exist_ok=True)
    for name, drawing in _charts(book).items():
        (charts / f"{name}.svg").write_text(drawing)
    page.write_text(f"{before}{BEGIN}\n\n{_kept(old, figures(book))}\n\n{END}{after}")


def _kept(old: str, new: str) -> str:
    """The new sections, but the old one of each that was not measured; so with the rows of the targets' table."""
    before, after = _sections(old), _sections(new)
    known = {line.split(" | ")[0]: line for line in before.get(TARGETS_TITLE, "").splitlines()}
    for title, text in after.items():
        if title == TARGETS_TITLE:
            lines = (known.get(line.split(" | ")[0], line) if _UNKNOWN in line else line for line in text.splitlines())
            after[title] = "\n".join(lines)
        elif NOT_MEASURED in text:
            after[title] = before.get(title, text)
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in after.items())


def _sections(text: str) -> dict[str, str]:
    parts = (part.partition("\n") for part in text.split("### ")[1:])
    return {title.strip(): words.strip() for title, _, words in parts}


def figures(book: Book) -> str:
    """Everything between the markers."""
    drawn = _charts(book)
    parts = [
        "### Against the targets",
        targets_table(book),
        "### Drain, nothing between",
        _drain(book),
        "![Rate of a drain](performance/drain.svg)" if "drain" in drawn else "",
        "### Rate against the round-trip time",
        _rtt(book),
        "![Rate against round-trip time](performance/rtt.svg)" if "rtt" in drawn else "",
        "### A real Postfix",
        _relay(book),
        "### Rate and memory against the backlog",
        _backlog(book),
        "![Rate against backlog](performance/backlog.svg)" if "backlog" in drawn else "",
        "![CPU for a thousand messages](performance/cost.svg)" if "cost" in drawn else "",
        "![Peak memory](performance/memory.svg)" if "memory" in drawn else "",
        "### Counted, for a thousand messages",
        _counts(book),
        "### A claim in a full table",
        _claims(book),
        "### Waiting, attachments, a foreign snapshot, the proxy",
        _others(book),
        "### Twice the text",
        _growth(book),
        "### Whom a million delays",
        _turns(book),
        "### Without DKIM, with Ed25519, with RSA",
        _signing(book),
        "### Writing from Python",
        _writing(book),
        "### Where the time goes",
        _profile(book),
        "### Machine and programs",
        _machine(book),
    ]
    return "\n\n".join(part for part in parts if part)


def targets_table(book: Book) -> str:
    """Each target, what was measured, and whether that is enough."""
    rows = [_target(book, target) for target in TARGETS]
    return _table(("target", "wanted", "measured (median)", "rounds", "met"), rows)


def _target(book: Book, target: Target) -> tuple[str, ...]:
    wanted = f"{target.way} {short(target.limit)}{target.unit}"
    value = target.measured(book)
    if value is None:
        return target.what, wanted, book.words.get(target.otherwise, "not measured"), "", ""
    spread = _spread(book, target.figure)
    return target.what, wanted, f"{short(value)}{target.unit}", spread, "yes" if target.met(value) else "**no**"


# --- the tables ---


def _drain(book: Book) -> str:
    names = (*KINDS, "overlap", "post_office", "post_office_default", "mailer", "naive", "smtp-source")
    rows = [
        (
            NAMES[name],
            _cell(book, f"drain.{name}.to-peer", TIMES),
            _cell(book, f"drain.{name}.to-default", TIMES),
            _cell(book, f"drain.{name}.to-source", TIMES),
            _cell(book, f"drain.{name}.cpu-to-peer", TIMES),
            _cell(book, f"drain.{name}.rate", "/s"),
            _cell(book, f"drain.{name}.whole", "/s"),
            _cell(book, f"drain.{name}.cpu", " s"),
            _cell(book, f"drain.{name}.peak", " MB"),
        )
        for name in names
    ]
    head = (
        "",
        "to the best peer",
        "to its defaults",
        "to smtp-source",
        "CPU to the best peer",
        "drain",
        "whole process",
        "CPU per 1,000",
        "peak memory",
    )
    start = (book.median("drain.postgresql.start") or 0, book.median("drain.postgresql.start-cpu") or 0)
    words = (
        f"{book.words.get('drain.rows', '')}. *Drain*: poller from the first claim to the last acceptance; a peer the "
        "call that sends; smtp-source as a whole. *Whole process*: with the start and the end, which on an empty queue "
        f"take {start[0]:.2f} s and {start[1]:.2f} CPU s. *CPU per 1,000* without them. *Overlapped*: the gear that "
        "relays get which are known to bear it, on PostgreSQL; else the gear of all others, `transaction`."
    )
    return _section(book, "drain", _table(head, rows), words)


def _rtt(book: Book) -> str:
    times = sorted({int(n.rpartition(".")[2]) for n in book.figures if n.startswith("rtt.") and n[-1].isdigit()})
    rows = [
        (
            NAMES[name],
            *(_cell(book, f"rtt.{name}.{ms}", "/s") for ms in times),
            _cell(book, f"rtt.{name}.round-trips", ""),
        )
        for name in ("transaction", "overlap", "post_office", "mailer", "naive", "smtp-source")
    ]
    head = ("to smtp-sink over a delay proxy", *(f"{ms} ms" for ms in times), "round trips a message")
    words = "The peers and smtp-source are timed with their greeting; the round trips are with a connection's two ends."
    return _section(book, "rtt", _table(head, rows), words)


def _relay(book: Book) -> str:
    if missing := book.words.get("relay.missing"):
        return f"Not measured: {missing}."
    window = book.words.get("relay.window", "not measured")
    rows = [
        ("smtp-source -d -s 1, no delay", _cell(book, "relay.smtp-source.rate", "/s")),
        ("poller, overlapped, no delay", _cell(book, "relay.poller.plain", "/s")),
        ("poller, one transaction at a time, no delay", _cell(book, "relay.poller.transaction", "/s")),
        ("poller to smtp-source", _cell(book, "relay.poller.to-source", TIMES)),
        ("processors busy while smtp-source sends", _cell(book, "relay.smtp-source.busy", " %")),
        ("processors busy while poller sends", _cell(book, "relay.poller.busy", " %")),
        ("poller, overlapped, 20 ms", _cell(book, "relay.poller.plain-20ms", "/s")),
        ("poller, one transaction at a time, 20 ms", _cell(book, "relay.poller.transaction-20ms", "/s")),
        ("poller, window 16, no delay", _cell(book, "relay.poller.window", "/s", window)),
        ("poller, window 16, 20 ms", _cell(book, "relay.poller.window-20ms", "/s", window)),
    ]
    return _section(book, "relay", _table(("a Postfix that throws the mail away", "rate"), rows))


def _backlog(book: Book) -> str:
    rows = [
        (
            NAMES[kind],
            f"{waiting:,}",
            _cell(book, f"backlog.{kind}.rate.{waiting}", "/s"),
            _cell(book, f"backlog.{kind}.peak.{waiting}", " MB"),
        )
        for kind in KINDS
        for waiting in _waiting(book, kind)
    ]
    first = book.words.get("backlog.first", "")
    head = ("", "rows waiting", f"rate of the first {first}", "peak memory")
    return _section(book, "backlog", _table(head, rows))


def _counts(book: Book) -> str:
    rows = [
        (
            NAMES[kind],
            *(
                _cell(book, f"counts.{kind}.{name}", "")
                for name in (
                    "round-trips",
                    "smtp-connections",
                    "statements",
                    "commits",
                    "database-round-trips",
                    "connections",
                )
            ),
        )
        for kind in KINDS
    ]
    head = (
        "",
        "round trips to the relay, a message",
        "connections to the relay",
        "SQL statements",
        "transactions",
        "round trips to the database",
        "connections to it, in all",
    )
    return _section(book, "counts", _table(head, rows), "BEGIN and COMMIT are not among the statements.")


def _claims(book: Book) -> str:
    million = book.words.get("claim.million", "1,000,000")
    rows = [
        (
            NAMES[kind],
            words if million == "1,000,000" else f"{words} (1M here: {million})",
            _cell(book, f"claim.{kind}.p50.{stage}", " ms"),
            _cell(book, f"claim.{kind}.p95.{stage}", " ms"),
            _cell(book, f"claim.{kind}.bare.{stage}", " ms"),
            _cell(book, f"claim.{kind}.first.{stage}", " ms"),
        )
        for kind in KINDS
        for stage, words in STAGES.items()
        if f"claim.{kind}.p50.{stage}" in book.figures
    ]
    locks = _cell(book, "claim.mariadb.row-locks", "")
    head = ("", "the table holds", "claim of 100, median", "p95", "without its commit", "first message")
    words = f"The due rows have priority 9. One claim of 100 on MariaDB held {locks} row locks before its commit."
    return _section(book, "claim", _table(head, rows), words)


def _others(book: Book) -> str:
    listen = book.words.get("latency.listen", "not measured")
    of_rows = book.words.get("foreign.rows", "")
    rows = [
        ("INSERT to acceptance, 50/s, default interval, p50", _cell(book, "latency.polling.p50", " ms")),
        ("the same, p99", _cell(book, "latency.polling.p99", " ms")),
        ("with listen, p50", _cell(book, "latency.listen.p50", " ms", listen)),
        ("with listen, p99", _cell(book, "latency.listen.p99", " ms", listen)),
        ("an idle minute: CPU", _cell(book, "idle.polling.cpu", " s")),
        ("an idle minute: SQL statements", _cell(book, "idle.polling.statements", "")),
        ("composing ready text and HTML", _cell(book, "compose.ready", " µs")),
        ("composing from a template", _cell(book, "compose.template", " µs")),
        ("attachments of 10 MB: peak memory", _cell(book, "attachments.peak", " MB")),
        ("attachments of 10 MB: rate", _cell(book, "attachments.rate", "/s")),
        *(
            (
                f"{of_rows} rows {name} a foreign snapshot: {words}, {when}",
                _cell(book, f"foreign.{name}.{what}.{when}", unit),
            )
            for name in ("without", "with")
            for what, words, unit in (("rate", "rate", "/s"), ("claim", "claim of 100", " ms"))
            for when in ("start", "end")
        ),
        ("smtp-source to the sink", _cell(book, "proxy.direct", "/s")),
        ("smtp-source through the proxy, no delay", _cell(book, "proxy.through", "/s")),
        ("a hundred sessions of it over 20 ms", _cell(book, "proxy.hundred-20ms", "/s")),
        ("the proxy's CPU for a round trip", _cell(book, "proxy.cpu", " µs")),
    ]
    whens = "; ".join(
        f"{name}: {_when(book, name)}"
        for name in ("latency", "idle", "compose", "attachments", "foreign", "proxy")
        if f"about.{name}.when" in book.words
    )
    return f"{whens or 'Not measured'}.\n\n{_table(('', ''), rows)}"


def _growth(book: Book) -> str:
    """By column, the shape that grew most."""
    shapes = [name.removesuffix(".ratio") for name in book.figures if name.startswith("growth.") and "ratio" in name]
    columns: dict[str, list[str]] = {}
    for shape in shapes:
        columns.setdefault(shape.removeprefix("growth.").partition(" ")[0], []).append(shape)
    rows = []
    for column, found in columns.items():
        most = max(found, key=lambda shape: book.median(f"{shape}.ratio") or 0)
        piece = most.partition(" ")[2].replace("|", "\\|")
        slowest = max(book.median(f"{shape}.ms") or 0 for shape in found)
        rows.append(
            (column, str(len(found)), f"`{piece}`", _cell(book, f"{most}.ratio", " times"), f"{slowest:.0f} ms")
        )
    words = f"Each shape repeated to {book.words.get('growth.size', '')} characters, and to twice as many."
    head = ("", "shapes", "the one that grew most", "work for twice the text", "the slowest shape, twice the text")
    return _section(book, "growth", words, _table(head, rows))


def _turns(book: Book) -> str:
    """Whom a million delays, and what fairness costs a claim."""
    rows = [
        (
            name,
            f"{senders}",
            *(_cell(book, f"turns.{kind}.{senders}.messages.p{share}", "") for share in (50, 99)),
            *(_cell(book, f"turns.{kind}.{senders}.ms.p{share}", " ms") for share in (50, 99)),
        )
        for kind, name in KINDS.items()
        for senders in turns.SENDERS
    ]
    head = ("", "other senders", "messages, half of them", "99 %", "time, half of them", "99 %")
    shapes = [
        (name, shape, *(_cell(book, f"turns.{kind}.claim.{shape}.p{share}", " ms") for share in (50, 95)))
        for kind, name in KINDS.items()
        for shape in turns.SHAPES
    ]
    words = (
        f"Single mails of other senders, written while a worker drains {book.words.get('turns.million', 'a million')}"
        " rows of one batch at the same priority: how many messages and how much time passed before each was accepted."
    )
    claims = _table(("", "a table of", "a claim of 100 rows, p50", "p95"), shapes)
    return _section(book, "turns", words, f"{_table(head, rows)}\n\n{claims}")


def _signing(book: Book) -> str:
    """What signatures cost."""
    names = {"unsigned": "unsigned", "ed25519": "Ed25519", "rsa": "RSA 2048", "both": "both"}
    rows = [
        (
            name,
            _cell(book, f"signing.{way}.rate", "/s"),
            _cell(book, f"signing.{way}.to-unsigned", TIMES),
            _cell(book, f"signing.{way}.cpu", " s"),
        )
        for way, name in names.items()
    ]
    words = f"{book.words.get('signing.rows', '')} rows on PostgreSQL to smtp-sink, all four in turn within a round"
    words += f"; {book.words.get('machine.processor', 'processor unknown')}."
    head = ("", "messages per second", "to unsigned", "CPU for a thousand")
    return _section(book, "signing", words, _table(head, rows))


def _writing(book: Book) -> str:
    """What `add_many` costs beside the driver's own means."""
    ways = {
        "plain": "COPY, or `executemany`",
        "made": "`add_many`, of mails made before",
        "many": "`add_many`, of mails that are made meanwhile",
        "ids": "`add_many_ids`, the same",
    }
    rows = [
        (
            way_name,
            *(
                _cell(book, f"writing.{kind}.{way}.{figure}", unit)
                for kind in KINDS
                for figure, unit in (("seconds", " s"), ("to-plain", TIMES))
            ),
        )
        for way, way_name in ways.items()
    ]
    words = (
        f"{book.words.get('writing.rows', '')} mails of 350 bytes in one transaction, with its COMMIT, all four in turn"
    )
    words += f"; {book.words.get('machine.processor', 'processor unknown')}. Making a mail holds it against the rules."
    head = ("", *(title for name in KINDS.values() for title in (name, "to plain")))
    return _section(book, "writing", words, _table(head, rows))


def _profile(book: Book) -> str:
    """Largest first."""
    parts = []
    for kind, head in (("part", "of the delivering thread's time"), ("holds", "of the time the interpreter is held")):
        names = [name for name in book.figures if name.startswith(f"profile.{kind}.")]
        names.sort(key=lambda name: -(book.median(name) or 0.0))
        rows = [(name.removeprefix(f"profile.{kind}."), _cell(book, name, " %")) for name in names]
        parts.append(_table((head, "share"), rows))
    drained = book.words.get("profile.rows", "")
    words = (
        f"A drain of {drained} rows on PostgreSQL, as py-spy sees it from outside; that slows it, system calls most."
    )
    return _section(book, "profile", words, *parts)


def _machine(book: Book) -> str:
    found = {name.removeprefix("machine."): text for name, text in book.words.items() if name.startswith("machine.")}
    return _table(("", ""), sorted(found.items()))


# --- the charts ---


def _charts(book: Book) -> dict[str, str]:
    drawn = {}
    rates = [
        (NAMES[n], book.median(f"drain.{n}.rate"))
        for n in (*KINDS, "overlap", "post_office", "mailer", "naive", "smtp-source")
    ]
    if known := [(name, rate) for name, rate in rates if rate is not None]:
        drawn["drain"] = chart.bars("Messages per second to smtp-sink, one connection, no delay", "/s", known)
    over = [
        chart.Line(name=NAMES[n], points=_points(book, f"rtt.{n}."))
        for n in ("transaction", "overlap", "post_office", "mailer", "naive", "smtp-source")
    ]
    if any(line.points for line in over):
        drawn["rtt"] = chart.lines("Rate against round-trip time", "round-trip time, ms", "messages per second", over)
    full = [chart.Line(name=NAMES[kind], points=_points(book, f"backlog.{kind}.rate.", least=1000)) for kind in KINDS]
    if any(line.points for line in full):
        drawn["backlog"] = chart.lines("Rate against backlog", "rows waiting", "messages per second", full)
    costs = [(NAMES[n], book.median(f"drain.{n}.cpu")) for n in (*KINDS, "post_office", "mailer", "naive")]
    if known := [(name, cost) for name, cost in costs if cost is not None]:
        drawn["cost"] = chart.bars("CPU seconds per 1,000 messages", " s", known)
    memory = [(NAMES[n], book.median(f"drain.{n}.peak")) for n in (*KINDS, "post_office", "mailer", "naive")]
    if known := [(name, peak) for name, peak in memory if peak is not None]:
        drawn["memory"] = chart.bars("Peak memory of the draining process", " MB", known)
    return drawn


def _points(book: Book, start: str, least: int = 0) -> list[tuple[float, float]]:
    ends = [name.removeprefix(start) for name in book.figures if name.startswith(start)]
    numbers = sorted(int(end) for end in ends if end.isdigit() and int(end) >= least)
    return [(n, book.median(f"{start}{n}") or 1.0) for n in numbers]


def _waiting(book: Book, kind: str) -> list[int]:
    return [int(n) for n, _ in _points(book, f"backlog.{kind}.rate.")]


# --- small ---


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A row without a single figure is left out."""
    lines = [head, ["---"] * len(head), *(row for row in rows if any(row[1:]))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(book: Book, name: str, unit: str, otherwise: str = "") -> str:
    value = book.median(name)
    return otherwise if value is None else f"{short(value)}{unit}"


def _spread(book: Book, figure: str) -> str:
    low, high = book.worst(figure, highest=False), book.worst(figure, highest=True)
    if low is None or high is None or len(book.figures[figure]) == 1:
        return ""
    return f"{short(low)} … {short(high)} ({len(book.figures[figure])})"


def _when(book: Book, name: str) -> str:
    """How often, when, at which commit, on how busy a machine."""
    rounds = min(len(values) for figure, values in book.figures.items() if figure.startswith(f"{name}."))
    often = "one run" if rounds == 1 else f"{rounds} rounds"
    return f"{often}, {book.words.get(f'about.{name}.when', 'it is not known when')}"


def _section(book: Book, name: str, *parts: str) -> str:
    """A measurement's part of the page: when it was made, then `parts`; only words if it was not."""
    measured = any(figure.startswith(f"{name}.") for figure in book.figures)
    return "\n\n".join((f"Of {_when(book, name)}.", *parts)) if measured else "Not measured."

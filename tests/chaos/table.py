"""The scenarios by name: what each does, and how often in the short and in the long form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chaos import clones, crashes, cuts, damage, disks, operators, outages, peers, restores, stalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from chaos.ground import Ground, Line


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`run(ground, **short)` takes seconds, `run(ground, **long)` is bounded by minutes."""

    name: str
    does: str
    run: Callable[..., Iterator[Line]]
    short: Mapping[str, Any] = field(default_factory=dict)
    long: Mapping[str, Any] = field(default_factory=dict)

    def lines(self, ground: Ground, *, at_length: bool) -> Iterator[Line]:
        """Run it."""
        return self.run(ground, **(self.long if at_length else self.short))


SCENARIOS = (
    Scenario(
        name="kill9",
        does="""`kill -9` of the worker at full speed, after 1 to 60 accepted messages: half of the time while a message
        is complete and unanswered, else up to 30 ms after a reply. It is started again at once, over and over on one
        outbox; a drain ends it.""",
        run=crashes.kill9,
        short={"crashes": 3, "batch": 40},
        long={"crashes": 200, "elsewhere": 50},
    ),
    Scenario(
        name="kill9-window",
        does="""The same on PostgreSQL, with 16 messages in flight by BDAT (`[smtp] window`).""",
        run=crashes.window,
        short={"crashes": 3},
        long={"crashes": 50},
    ),
    Scenario(
        name="kill9-no-state",
        does="""The same, and the state directory is deleted before each start: the new process is a stranger under the
        old name, and has to wait for the lease of the dead one.""",
        run=crashes.no_state,
        short={"crashes": 3, "waited": 0, "batch": 40},
        long={"crashes": 50, "waited": 5},
    ),
    Scenario(
        name="kill-db",
        does="""`kill -9` of PostgreSQL (fsync on) after 1 to 60 accepted messages, alone and together with the worker;
        both come up again, the worker first, and nobody helps. What the worker knows outlives the server.""",
        run=outages.kill_db,
        short={"crashes": 1},
        long={"crashes": 30},
    ),
    Scenario(
        name="smtp-cut",
        does="""The line to the relay is cut when a reply is due: closed, reset, closed after half of the reply, left
        open in silence, or the reply comes byte by byte. In mid-content it is reset after 4 KB of 4 MB. A cell says how
        often that was done, and what is left of it after a drain.""",
        run=cuts.smtp_cut,
        short={"phases": ("MAIL", "end"), "hows": ("closed", "half a reply"), "content": False},
        long={},
    ),
    Scenario(
        name="db-cut",
        does="""The line to the database is cut at a COMMIT: before the server had it (rolled back), or when the server
        has committed and its reply is on the way. First with one cut for each run and one batch of rows; then many cuts
        in one run. `run --drain` is started once and left alone.""",
        run=cuts.db_cut,
        short={"cuts": 3, "each": 12, "most": 6},
        long={"cuts": 20, "each": 24, "most": 200},
    ),
    Scenario(
        name="sigstop",
        does="""Two workers; one is stopped (SIGSTOP) in the middle of its batch until its lease has ended and the other
        has taken over and sent everything, and then goes on (SIGCONT). A settled row counts as overwritten when
        anything that is said of its fate is different after that. The lease is three seconds, openly.""",
        run=stalls.sigstop,
        short={"rounds": 1},
        long={"rounds": 15},
    ),
    Scenario(
        name="clock",
        does="""Two workers; the wall clock of one of them (libfaketime) jumps by ten minutes while both are sending. At
        the end the other leaves, and the first has to send a new row.""",
        run=stalls.clock,
    ),
    Scenario(
        name="state-dir",
        does="""The state directory lies on a small disk of its own (tmpfs), which is full or read-only before the
        start or after 60 messages, or the directory is removed in mid-run. The worker is watched, then everything is
        mended and drained.""",
        run=disks.state_dir,
    ),
    Scenario(
        name="restore",
        does="""A dump is made by the database's own tools while rows are open; they are sent; then the dump is
        restored, under another name for a worker of another name, or under its own name for the former worker. A worker
        runs on it for some seconds, then `poller adopt` is said and the outbox is drained. What the former worker knows
        to have sent is marked as sent; what an application has written since then goes out. "In place": into the very
        database, table by table, while the worker goes on, which has sent all or is in the midst of it.""",
        run=restores.restore,
    ),
    Scenario(
        name="clone",
        does="""The clone of an outbox comes to life: a dump restored into another PostgreSQL cluster that answers at
        the same URL; the outbox at the same address and a worker on another machine (a /etc/machine-id of its own); and
        a state directory that was copied while its worker was sending, in the place of the original when that worker
        was killed. A worker runs on the first two for some seconds, then `poller adopt` is said, and they are
        drained: the clone's rows are its own then.""",
        run=clones.clone,
    ),
    Scenario(
        name="journal-damage",
        does="""A worker is killed with fifty rows in its hands, of which most were accepted and nothing is written down
        but in its journal. One byte of that is flipped, or all from it on is cut or zeroed, and a worker starts on it;
        so at each place. What the journal can't tell is a doubt, and never taken for a row that was not begun, or that
        killed its worker.""",
        run=damage.damage,
        short={"places": 4},
        long={"places": 40},
    ),
    Scenario(
        name="operators",
        does="""Three workers on each server, and people at them: `kill -9`, SIGSTOP beyond the lease, lines to the
        database broken by the server, forgotten locks, the switch; pause, resume, cancel, retry, resolve; plain UPDATE
        and DELETE; about ten of these a second while rows come in. Then all is let go and drained. The lease is two
        seconds, openly.""",
        run=operators.operators,
        short={"seconds": 8.0},
        long={"seconds": 75.0},
    ),
    Scenario(
        name="peers",
        does="""`kill9` for other mailers on PostgreSQL, by the same relay, the same trap and the same books; each is
        started again at once. One that does not send again after a crash has fewer crashes, and stuck rows.""",
        run=peers.peers,
        short={"crashes": 3},
        long={"crashes": 30},
    ),
)

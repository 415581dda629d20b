"""The journal of a killed worker is damaged before it starts again: no false death, and no silent duplicate.

A worker is killed with a batch in its hands, of which most was accepted and nothing is written down but in its journal.
That state is kept. Then, over and over: it is put back, one byte of the journal is flipped, or all from it on is cut
or zeroed, and a worker starts on it. On SQLite, whose file is put back like the journal's.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa
from chaos.ground import Ground, Line, Trap, drain, fill, says, wait_until
from chaos.recorder import Recorder
from service import zygote

from poller.journal.segments import segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.bench import Bench

ROWS = 50
ACCEPTED = 45
How = Literal["flipped", "cut", "zeroed"]
HOWS: tuple[How, ...] = ("flipped", "cut", "zeroed")
POLICIES = ("resend", "hold")
GROUP_AGE = {"poll": {"batch_size": ROWS}}


def damage(ground: Ground, *, places: int) -> Iterator[Line]:
    """Each kind of damage at so many places of the journal, each policy."""
    for policy in POLICIES:
        with ground.bench("sqlite") as bench:
            state = _State(bench=bench, policy=policy)
            committed, taken, end = state.make(ground)
            for how in HOWS:
                yield _tried(ground, state, how, committed=committed, taken=taken, end=end, places=places)


@dataclass(kw_only=True)
class _State:
    """What a killed worker left: its directory and the database, kept and put back."""

    bench: Bench
    policy: str

    @property
    def _database(self) -> Path:
        return Path(str(sa.make_url(self.bench.database.url).database))

    @property
    def _files(self) -> tuple[Path, ...]:
        return tuple(self._database.with_name(self._database.name + suffix) for suffix in ("", "-wal", "-shm"))

    @property
    def _directory(self) -> Path:
        return self.bench.directory / f"state-{self.bench.name}"

    @property
    def journal(self) -> Path:
        """The segment that was written last, in the worker's directory."""
        (journal,) = self._directory.glob("journal-*")
        return segments(journal)[-1]

    def make(self, ground: Ground) -> tuple[list[str], Counter[str], int]:
        """Rows, what the relay has taken of them, and how many bytes of the journal were written."""
        with Recorder() as relay:
            committed = fill(self.bench, ROWS, on_doubt=self.policy)
            config = self.bench.configure(relay.host, relay.port, **GROUP_AGE)
            process = zygote.start(["--config", str(config), "run"], self.bench.directory / "killed.log")
            trap = Trap(relay, ground.chance, before=1.0)
            trap.set(ACCEPTED, process.kill)
            wait_until(lambda: trap.wait(0.05), f"{ACCEPTED} messages were accepted")
            process.wait()
            relay.wait_until_quiet()
            taken: Counter[str] = Counter(r for entry in relay.entries for r in entry.recipients)
        self.bench.engine.dispose()
        kept = self.bench.directory / "kept"
        kept.mkdir()
        for file in filter(Path.exists, self._files):
            shutil.copy2(file, kept / file.name)
        shutil.copytree(self._directory, kept / "state")
        return committed, taken, len(self.journal.read_bytes().rstrip(b"\0"))

    def put_back(self) -> None:
        """As the kill left it. The journal's files keep their place: a copied directory is another finding."""
        self.bench.engine.dispose()
        kept = self.bench.directory / "kept"
        for file in self._files:
            file.unlink(missing_ok=True)
            if (kept / file.name).exists():
                shutil.copy2(kept / file.name, file)
        for file in sorted(self._directory.rglob("*"), reverse=True):
            if file.is_file() and not (kept / "state" / file.relative_to(self._directory)).exists():
                file.unlink()
        for file in (kept / "state").rglob("*"):
            if file.is_file():
                (self._directory / file.relative_to(kept / "state")).write_bytes(file.read_bytes())


def _tried(
    ground: Ground, state: _State, how: How, *, committed: list[str], taken: Counter[str], end: int, places: int
) -> Line:
    silent = lost = twice = doubts = 0
    for number in range(places):
        ground.say(f"journal-damage, {state.policy}, {how}: {number + 1} of {places}")
        state.put_back()
        _harm(state.journal, how, at=number * end // places)
        with Recorder() as relay:
            config = state.bench.configure(relay.host, relay.port, **GROUP_AGE)
            drain(state.bench, config, seconds=30)
            again: Counter[str] = Counter(r for entry in relay.entries for r in entry.recipients)
        rows = says(state.bench)
        for recipient in committed:
            row = rows[recipient]
            sent = taken[recipient] + again[recipient]
            lost += row.status == "sent" and not sent
            lost += row.status not in {"sent", "in_doubt"}
            twice += max(0, sent - 1)
            silent += max(0, sent - 1 - (row.doubts or 0))
            doubts += row.doubts or 0
    cells = {
        "on_doubt": state.policy,
        "the journal is": how,
        "places": places,
        "of bytes": end,
        "rows in hand, accepted": f"{ROWS}, {sum(taken.values())}",
        "doubts": doubts,
        "sent twice": twice,
        "of these silently": silent,
        "lost": lost,
    }
    wrong = {
        "lost": lost,
        "sent twice in silence": silent,
        "sent twice on hold": twice if state.policy == "hold" else 0,
    }
    return Line(cells=cells, broken=tuple(f"{count} {what}" for what, count in wrong.items() if count))


def _harm(journal: Path, how: How, *, at: int) -> None:
    data = bytearray(journal.read_bytes())
    if how == "flipped":
        data[at] ^= 1
    elif how == "zeroed":
        data[at:] = bytes(len(data) - at)
    else:
        data = data[:at]
    journal.write_bytes(data)

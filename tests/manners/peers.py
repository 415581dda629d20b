"""What other mailers do when a provider blocks: the same provider, the same mail, the same books, the same scale.

Their cron lines run 60 times as often, and their waits are a 60th: send each second instead of each minute, try again
after 15 s instead of 15 minutes (django-post_office) or each 20 s instead of each 20 minutes (django-mailer).
All manners at once, each with a server and a database of its own: they mostly wait.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import databases
from chaos.ground import Line
from chaos.peers import Peer, environment_of, interpreter
from manners.blocks import MANNERS, Case, Ended, cells_of, needs
from servers.provider import Manner, ProviderServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chaos.ground import Ground

PROGRAM = Path(__file__).with_name("peer_program.py")
EVERY_S = 1.0  # a minute of cron, scaled
AGAIN_S = 20.0  # of django-mailer's manual: 20 minutes
SPARE_S = 60.0
SETUP_S = 120.0

PEERS = (
    Peer(
        name="django-post_office 3.12",
        how="as shipped: no retries",
        program="post_office",
        settings={"POST_OFFICE": {"MESSAGE_ID_ENABLED": True}},
    ),
    Peer(
        name="django-post_office 3.12",
        how="1 connection, MAX_RETRIES 10 after RETRY_INTERVAL",
        program="post_office",
        settings={
            "POST_OFFICE": {
                "THREADS_PER_PROCESS": 1,
                "MESSAGE_ID_ENABLED": True,
                "MAX_RETRIES": 10,
                "RETRY_INTERVAL": 15,
            }
        },
    ),
    Peer(name="django-mailer 2.3", how="as its manual says: retry_deferred every 20 minutes", program="mailer"),
)


def peers(
    ground: Ground, *, count: int = 500, bound: float = 150.0, manners: Sequence[Manner] = MANNERS
) -> Iterator[Line]:
    """Each of them, in each manner. Raises Skipped."""
    needs(ground, "postgresql")
    python = interpreter()
    for peer in PEERS:
        ground.say(f"{peer.name}, {peer.how}")
        with ThreadPoolExecutor(len(manners)) as together:
            cases = [Case(manner=manner, count=count) for manner in manners]
            yield from together.map(lambda case, peer=peer: _run(ground, python, peer, case, bound), cases)


def _run(ground: Ground, python: Path, peer: Peer, case: Case, bound: float) -> Line:
    directory = ground.directory / f"{peer.program}-{case.manner}-{time.monotonic_ns()}"
    directory.mkdir()
    with (
        databases.database("postgresql", directory, migrated=False) as settings,
        ProviderServer(case.provider) as server,
    ):
        environment = environment_of(peer, settings.url, server.port)

        def order(*words: str, timeout: float = SETUP_S) -> str:
            done = subprocess.run(
                [str(python), str(PROGRAM), peer.program, *words],
                cwd=directory,
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
            assert done.returncode == 0, f"{peer.name} {words}: {done.stderr[-1000:]}"
            return done.stdout

        order("setup")
        order("insert", str(case.count))
        began = time.monotonic()
        order("work", str(bound), str(EVERY_S), str(AGAIN_S), timeout=bound + SPARE_S)
        counts = Counter(json.loads(order("say").strip().splitlines()[-1]))
        ended = Ended(statuses=counts, charged=0, complete=not counts["queued"], began=began)
        cells = {name: cell for name, cell in cells_of(case, server, ended).items() if name != "attempts charged"}
    return Line(cells={"mailer": peer.name, "how": peer.how, "database": "PostgreSQL", **cells})

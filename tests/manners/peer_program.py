"""Two other mailers against a provider that blocks; runs in the virtual environment of tests/chaos/peers.py.

    peer_program.py PEER setup | insert COUNT | work SECONDS EVERY AGAIN | say

PEER is post_office or mailer. `insert` writes COUNT rows to big.example and COUNT to other.example, in turn. `work`
does for SECONDS what their manuals put into cron: it sends every EVERY seconds, and says every AGAIN seconds that what
was put off is to be tried again (django-mailer's retry_deferred). `say` prints a JSON object: how many are sent,
failed, queued.
"""

# ruff: noqa: PLC0415, T201 - each peer imports only itself; the answer
from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections import Counter
from datetime import timedelta
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

from chaos import peer_program  # noqa: E402 - see above

DOMAINS = ("big.example", "other.example")


def recipient(number: int) -> str:
    return f"r{number // 2}@{DOMAINS[number % 2]}"


peer_program.recipient = recipient


class PostOffice(peer_program.PostOffice):
    def __init__(self) -> None:
        own = peer_program.HERE["settings"]["POST_OFFICE"]
        if "RETRY_INTERVAL" in own:  # seconds came; JSON knows no timedelta
            own["RETRY_INTERVAL"] = timedelta(seconds=own["RETRY_INTERVAL"])
        super().__init__()

    def turn(self, *, again: bool) -> None:  # noqa: ARG002 - it knows by itself
        from django.core.management import call_command

        call_command("send_queued_mail", lockfile=os.path.abspath("post_office"), verbosity=0)  # noqa: PTH100 - its way

    def counts(self) -> Counter[str]:
        from post_office.models import Email

        words = {0: "sent", 1: "failed"}
        return Counter(words.get(status, "queued") for status in Email.objects.values_list("status", flat=True))


class Mailer(peer_program.Mailer):
    def turn(self, *, again: bool) -> None:
        from django.core.management import call_command

        if again:
            call_command("retry_deferred")
        call_command("send_mail")

    def counts(self) -> Counter[str]:
        from mailer.models import Message, MessageLog

        return Counter(sent=MessageLog.objects.filter(result="1").count(), queued=Message.objects.count())


PEERS = {"post_office": PostOffice, "mailer": Mailer}


def work(peer: PostOffice | Mailer, seconds: float, every: float, again_every: float) -> None:
    began = time.monotonic()
    turn = again_at = 0.0
    while peer.counts()["queued"] and turn < seconds:
        again = turn >= again_at + again_every
        again_at = turn if again else again_at
        try:
            peer.turn(again=again)
        except Exception:  # noqa: BLE001 - cron would mail it, and start again a minute later
            traceback.print_exc()
        turn = max(turn + every, time.monotonic() - began)
        time.sleep(max(0.0, began + turn - time.monotonic()))


def main(name: str, order: str, *values: str) -> None:
    peer = PEERS[name]()
    if order == "say":
        print(json.dumps(peer.counts()))
    elif order == "work":
        work(peer, *map(float, values))
    elif order == "insert":
        peer.insert(2 * int(values[0]))
    else:
        peer.setup()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""`manage.py poller …`: the service's own commands, on the outbox of this project.

    manage.py poller migrate
    manage.py poller run --drain
    manage.py poller status --watch

Rule 1. All that follows is the command line of `poller`, word by word; this process becomes that one, with its signals
        and its exit code. By `call_command` it is a child, and another exit code than 0 is a CommandError.
Rule 2. The configuration is `--config`, $POLLER_CONFIG or `settings.POLLER_CONFIG`. Without any of them the service
        gets the address of Django's database, through the environment of its process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from poller.contrib.django import place

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROGRAM = [sys.executable, "-m", "poller"]
_URL = "POLLER__DATABASE__URL"
_CONFIG = "POLLER_CONFIG"


class Command(BaseCommand):
    """The service's commands."""

    help = "The commands of poller, on the outbox of this project: manage.py poller status"
    requires_system_checks: Sequence[str] = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """Become `poller`."""
        connections.close_all()
        os.execve(sys.executable, [*_PROGRAM, *argv[2:]], _environment(argv[2:]))  # noqa: S606 - no shell is wanted

    def add_arguments(self, parser: Any) -> None:
        """For `call_command`."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def handle(self, *_: Any, arguments: Sequence[str] = (), **__: Any) -> str:
        """Run `poller` as a child; what it printed."""
        command = [*_PROGRAM, *arguments]
        done = subprocess.run(command, env=_environment(arguments), capture_output=True, text=True, check=False)  # noqa: S603 - ours
        if done.returncode:
            raise CommandError(done.stderr.strip() or done.stdout.strip(), returncode=done.returncode)
        return done.stdout


def _environment(arguments: Sequence[str]) -> dict[str, str]:
    environment = dict(os.environ)
    if configured := getattr(settings, "POLLER_CONFIG", None):
        environment.setdefault(_CONFIG, str(configured))
    named = any(word.split("=")[0] == "--config" for word in arguments)
    if not named and _CONFIG not in environment:
        connection = connections[place.alias()]
        environment.setdefault(_URL, place.url(connection.vendor, connection.settings_dict))
    return environment

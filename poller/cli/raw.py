"""`poller show ID --raw`: the message that a row makes today, with today's templates, keys and settings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from poller.answers.letter import letter_of
from poller.cli.screen import say
from poller.cli.session import Stop
from poller.message.draft import Unsendable

if TYPE_CHECKING:
    from poller.config.load import Config
    from poller.outbox import Engine
    from poller.outbox.report import Story


def show_raw(config: Config, engine: Engine, told: Story) -> None:
    """Print the bytes. Raises Stop where there can be none, in the words of the row's own error."""
    try:
        letter = letter_of(config, engine, told)
    except Unsendable as error:
        raise Stop(f"this row can't become a message: {error}") from None
    for problem in letter.unsigned:
        say(f"shown without its DKIM signature: {problem}", err=True)
    if letter.caution:
        say(letter.caution, err=True)
    sys.stdout.buffer.write(letter.content)

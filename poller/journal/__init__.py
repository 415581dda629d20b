"""The journal: what this worker put on the wire and what came back, on local disk, replayed after a crash.

`segments` are the files, `entries` what their records say about a message, `journal` the writing and the reading.
"""

from __future__ import annotations

from poller.journal.entries import Entry, Key, Stage
from poller.journal.journal import Journal, JournalTrouble, Past, Sync, trouble_of

__all__ = ["Entry", "Journal", "JournalTrouble", "Key", "Past", "Stage", "Sync", "trouble_of"]

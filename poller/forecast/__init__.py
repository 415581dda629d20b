"""Pure: foresight. When the queue will be done, what holds it up, and which settings contradict each other.

curves.py    how many messages by when: adding, dividing and reading such curves
passage.py   one limit that a curve passes through
scopes.py    which limits a message falls under, and how they stand
plan.py      the whole queue, through all of its limits
cautions.py  settings that will not do what somebody meant by them
"""

from __future__ import annotations

from poller.forecast.cautions import warnings
from poller.forecast.plan import Breath, Destination, Forecast, Waiting, forecast
from poller.forecast.scopes import Paced, Standing, Wait, in_force, paced_in_words, senders_of, used_of

__all__ = [
    "Breath",
    "Destination",
    "Forecast",
    "Paced",
    "Standing",
    "Wait",
    "Waiting",
    "forecast",
    "in_force",
    "paced_in_words",
    "senders_of",
    "used_of",
    "warnings",
]

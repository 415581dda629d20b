"""Pure: what a reply asks of us, beyond what its code says.

patterns.py  how a reply is recognised, and what follows
asked.py     "try again in N": how long a reply asks us to wait
words.py     what a reply says, without what the row chose
shipped.py   the table of known replies, each line with its source
"""

from __future__ import annotations

from poller.judgement.advice.asked import retry_after
from poller.judgement.advice.patterns import Advice, ReplyPattern, advise
from poller.judgement.advice.shipped import SHIPPED
from poller.judgement.advice.words import without_addresses

__all__ = ["SHIPPED", "Advice", "ReplyPattern", "advise", "retry_after", "without_addresses"]

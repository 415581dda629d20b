"""The scenarios by name: what each does, and how much of it in the short and in the long form."""

from __future__ import annotations

from chaos.table import Scenario
from manners import blocks, costs, front, lists, peers, relays, shares

SCENARIOS = (
    Scenario(
        name="blocks",
        does="""A provider lets 30 messages through in any minute; one more, and it refuses everything for ten minutes.
        500 messages to it and 500 to others wait, in turn. Nothing is configured: default settings and the replies that
        are known. Time runs 60 times as fast: 30 in a second, blocks of ten seconds, and a 60th of `[throttle]
        first_pause`, `longest_pause` and `raise_every`, of `[retry] first`, `longest` and `cohort_patience`, of `[poll]
        interval` and of `[smtp] rest_first` and `rest_longest`. Seconds are scaled seconds, counted from the start of
        the worker; the ideal is the time in which the provider would take all of it.""",
        run=blocks.unasked,
        short={"count": 60, "bound": 60.0},
        long={},
    ),
    Scenario(
        name="blocks-unscaled",
        does="""The same in real time: no default is changed. It takes an hour, all manners at once.""",
        run=blocks.unasked,
        short={"count": 5, "factor": 1, "bound": 60.0, "manners": ("421",)},
        long={"factor": 1, "bound": 7200.0},
    ),
    Scenario(
        name="blocks-peers",
        does="""The same for two other mailers on PostgreSQL, 60 times as fast: 30 in a second, blocks of ten seconds,
        cron each second instead of each minute, and a 60th of their waits: 15 s instead of 15 minutes until
        django-post_office tries again, 20 s between two `retry_deferred` of django-mailer. For at most 150 s (that is
        two and a half hours); what still waits then is `still open`.""",
        run=peers.peers,
        short={"count": 60, "bound": 30.0, "manners": ("421",)},
        long={},
    ),
    Scenario(
        name="configured",
        does="""The same provider, 60 times as fast, and its limit in the configuration: `rates = ["30/s"]` for its
        domain, which is exactly what it allows, and nine tenths of that. The same is scaled.""",
        run=blocks.configured,
        short={"count": 60, "bound": 30.0, "manners": ("421",)},
        long={"manners": ("421",)},
    ),
    Scenario(
        name="shared",
        does="""Several workers on PostgreSQL share one limit, of one destination or of the whole outbox; half way one
        of them is killed (`kill -9`), and comes back a twentieth of the time later. The server counts in every window,
        wherever it begins. The limit plus its burst (1) is allowed. Four crews at once, for each limit.""",
        run=shares.shared,
        short={"crews": (2,), "runs": ((("60/s",), 6.0),), "scopes": ("one destination",)},
        long={},
    ),
    Scenario(
        name="front",
        does="""100,000 rows for a destination that is limited to one a minute stand in front; then a row for another
        one is inserted, at a random moment of the interval, again and again. Measured from before its INSERT to its
        acceptance.""",
        run=front.front,
        short={"rows": 2000, "times": 5, "interval": 0.5},
        long={},
    ),
    Scenario(
        name="cost",
        does="""6,000 rows for one destination that nobody limits, while 0, 10 or 1,000 others are limited to 6 a minute
        each and have ten rows that wait. How many of the 6,000 go in a second, from the first to the last.""",
        run=costs.cost,
        short={"rows": 300, "limited": (0, 10)},
        long={},
    ),
    Scenario(
        name="takeover",
        does="""Rows come all the time. Relay A (`order = 1`) refuses logins, then drops lines, then is well again; B
        (`order = 2`) is well throughout. A cell says how many each of them took in that phase.""",
        run=relays.taken_over,
        short={"phase": 2.0},
        long={},
    ),
    Scenario(
        name="list",
        does="""A list of 5,000, 20 at a time with 17 seconds between (`[poll] batch_size`, `batch_pause`), run 100
        times as fast: 170 ms. What `poller plan --json` foresaw, and what came.""",
        run=lists.foreseen,
        short={"count": 400},
        long={},
    ),
    Scenario(
        name="learnt",
        does="""A relay takes 50 messages on a connection and says 421 at the next. 500 messages.""",
        run=relays.learnt,
        short={"count": 200, "each": 20},
        long={},
    ),
    Scenario(
        name="connections",
        does="""More workers than `max_connections` of a relay; the server bears any number and counts.""",
        run=relays.few_connections,
        short={"count": 400},
        long={},
    ),
)

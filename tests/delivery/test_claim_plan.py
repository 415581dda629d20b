"""What a claim may take, and who goes: limits over scopes, destinations out of the way, relays in their order."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.delivery.claim_plan import OUTBOX, Pacing
from poller.pacing.gate import Candidate, Gate, Record, ScopeKey
from poller.pacing.limits import Limit, Scope
from poller.pacing.settings import ProviderSettings, ThrottleSettings
from poller.pacing.state_row import as_row, unsent
from poller.smtp.relays import RelaySettings
from poller.units import Rate, parse_rate

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
SMTP = {"smtp": RelaySettings()}
A_MINUTE = Limit(rates=(Rate(count=60, period=60),))


def pacing(*, relays: Any = None, **throttle: Any) -> Pacing:
    return Pacing(settings=ThrottleSettings(**throttle), relays=relays or SMTP, sender="Shop <shop@shop.example>")


def limited(*rates: str, burst: int = 1, counts: Any = "messages") -> Limit:
    return Limit(rates=tuple(parse_rate(rate) for rate in rates), burst=burst, counts=counts)


def row(number: int, domain: str, **more: Any) -> Candidate:
    known = {"relay": None, "sender": None, "cc": None, "bcc": None, "priority": 5, "due_at": NOW}
    lane = f"{more.get('relay') or ''} {(more.get('sender') or '').lower()}"
    return Candidate(
        **{"id": number, "domain": domain, "lane": lane, "recipients": f"r{number}@{domain}"} | known | more
    )


class Table:
    """outbox_throttle, as far as pacing sees it."""

    def __init__(self) -> None:
        self.records: dict[ScopeKey, Record] = {}

    def claim(self, worker: Pacing, rows: list[Candidate], now: datetime, usable: Any = ("smtp",)) -> dict[int, Any]:
        worker.see(self.records, now)
        gate = worker.gate(100, now, usable=usable, afresh=True)
        allowed = dict(gate.open_domains)
        seen: Counter[str | None] = Counter()
        offered = []
        for candidate in rows if gate.limit else []:
            seen[candidate.domain] += 1
            is_open = seen[candidate.domain] <= allowed.get(candidate.domain or "", 0)
            if candidate.domain not in gate.closed_domains or is_open:
                offered.append(candidate)
        locked = {key: self.records.get(key, Record(values={})) for key in gate.scopes}
        choice = worker.choose(usable)(offered[: gate.limit], locked, now)
        self.records |= {key: Record(values=as_row(state)) for key, state in choice.states.items()}
        return dict(choice.grants)

    def pause(self, key: ScopeKey, until: datetime) -> None:
        self.records[key] = Record(values=as_row(Scope(paused_until=until, reason="it said so")))


def test_without_a_limit_the_gate_is_open_and_nothing_is_locked() -> None:
    worker = pacing()
    worker.see({}, NOW)
    assert worker.gate(100, NOW, usable=["smtp"]) == Gate(limit=100)


def test_a_limited_destination_is_left_out_of_the_walk_and_asked_apart() -> None:
    worker = pacing(domains={"slow.example": A_MINUTE})
    worker.see({}, NOW)
    gate = worker.gate(100, NOW, usable=["smtp"])
    assert gate.closed_domains == ("slow.example",)
    assert gate.open_domains == (("slow.example", 1),)
    assert gate.scopes == (ScopeKey("domain", "slow.example"),)


def test_a_destination_that_pauses_is_closed_and_others_go() -> None:
    worker, table = pacing(), Table()
    table.pause(ScopeKey("domain", "full.example"), NOW + timedelta(minutes=10))
    granted = table.claim(worker, [row(1, "full.example"), row(2, "free.example")], NOW)
    assert [*granted] == [2]
    assert worker.next_at(NOW) == NOW + timedelta(minutes=10)


def test_a_provider_that_pauses_closes_all_of_its_domains() -> None:
    worker = pacing()
    table = Table()
    table.pause(ScopeKey("provider", "google"), NOW + timedelta(minutes=10))
    rows = [row(1, "gmail.com"), row(2, "googlemail.com"), row(3, "gmail.example")]
    assert [*table.claim(worker, rows, NOW)] == [3]


def test_a_domain_of_a_starred_group_is_paced_from_the_first_time_it_is_met() -> None:
    worker, table = pacing(providers={"outlook": ProviderSettings(rates=(parse_rate("1/h"),))}), Table()
    assert [*table.claim(worker, [row(1, "hotmail.fr"), row(2, "hotmail.fr"), row(3, "live.nl")], NOW)] == [1]
    assert {"hotmail.fr", "live.nl"} <= set(worker.gate(100, NOW, usable=["smtp"]).closed_domains)


def test_a_message_must_fit_into_every_scope() -> None:
    worker = pacing(
        rates=(parse_rate("100/s"),),
        domains={"slow.example": A_MINUTE},
        senders={"@shop.example": limited("3/h", burst=3)},
    )
    table = Table()
    rows = [row(n, "a.example") for n in range(1, 5)] + [row(5, "slow.example")]
    granted = table.claim(worker, rows, NOW)
    assert [*granted] == [1, 2, 3]  # the sender's quota
    assert {share.key.kind for grant in granted.values() for share in grant.scopes} == {"outbox", "sender"}


def test_recipients_are_counted_where_the_limit_counts_them() -> None:
    worker, table = pacing(rates=(parse_rate("10/h"),), burst=10, counts="recipients"), Table()
    many = ", ".join(f"r{n}@a.example" for n in range(6))
    rows = [row(1, "a.example", recipients=many), row(2, "a.example", cc="x@a.example, y@b.example, z@c.example")]
    assert [*table.claim(worker, rows, NOW)] == [1, 2]
    assert [*table.claim(worker, [row(3, "a.example")], NOW)] == []


def test_a_row_that_is_passed_over_is_told_to_the_claim_until_its_time() -> None:
    worker = pacing()
    worker.skip(7, NOW + timedelta(seconds=3))
    assert worker.gate(100, NOW, usable=["smtp"]).closed_ids == (7,)
    assert worker.gate(100, NOW + timedelta(seconds=4), usable=["smtp"]).closed_ids == ()


def test_without_a_relay_that_is_there_nothing_is_taken() -> None:
    assert pacing().gate(100, NOW, usable=[]).limit == 0


def test_rows_that_name_a_relay_that_rests_are_left_out() -> None:
    worker = pacing(relays={"smtp": RelaySettings(), "backup": RelaySettings()})
    worker.see({}, NOW)
    assert worker.gate(100, NOW, usable=["smtp"]).closed_relays == ("backup",)


def test_a_domain_that_only_a_resting_relay_takes_is_left_out() -> None:
    worker = pacing(relays={"smtp": RelaySettings(), "inner": RelaySettings(domains=("corp.example",))})
    worker.see({}, NOW)
    assert worker.gate(100, NOW, usable=["smtp"]).closed_domains == ("corp.example",)
    assert worker.gate(100, NOW, usable=["smtp", "inner"]).closed_domains == ()


def test_relays_that_name_the_message_come_alone_and_the_lower_order_first() -> None:
    worker = pacing(
        relays={
            "smtp": RelaySettings(),
            "second": RelaySettings(order=2),
            "ours": RelaySettings(senders=("@shop.example",)),
            "inner": RelaySettings(domains=("corp.example",)),
        }
    )
    plain = {"relay": None, "domain": "a.example", "sender": "x@other.example"}
    assert worker.relays_for(**plain) == ("smtp", "second")
    assert worker.relays_for(**plain | {"sender": None}) == ("ours",)
    assert set(worker.relays_for(**plain | {"domain": "corp.example"})) == {"inner"}
    assert worker.relays_for(**plain | {"relay": "second"}) == ("second",)
    assert worker.relays_for(**plain | {"relay": "nobody"}) == ()


def test_weight_is_the_share_among_relays_of_one_order() -> None:
    worker = pacing(relays={"a": RelaySettings(weight=3), "b": RelaySettings(weight=1)})
    firsts = Counter(worker.relays_for(relay=None, domain="x", sender=None)[0] for _ in range(4000))
    assert firsts["a"] / 4000 == pytest.approx(0.75, abs=0.05)


def test_a_relay_without_a_slot_is_passed_over() -> None:
    relays = {"smtp": RelaySettings(rates=(parse_rate("1/h"),)), "second": RelaySettings(order=2)}
    worker, table = pacing(relays=relays), Table()
    granted = table.claim(worker, [row(n, "a.example") for n in (1, 2, 3)], NOW, usable=("smtp", "second"))
    assert [granted[n].relay for n in (1, 2, 3)] == ["smtp", "second", "second"]


def test_slots_that_were_not_used_are_had_again_unless_somebody_took_since() -> None:
    key = ScopeKey("domain", "slow.example")
    worker, table = pacing(domains={"slow.example": limited("10/h", burst=2)}), Table()
    grants = table.claim(worker, [row(1, "slow.example"), row(2, "slow.example")], NOW)
    lost = [(NOW, share) for grant in grants.values() for share in grant.scopes]
    slots = table.records[key].values["slots"]
    table.records[key] = Record(values={**table.records[key].values, "slots": unsent(slots, lost)})
    assert [*table.claim(worker, [row(1, "slow.example"), row(2, "slow.example")], NOW)] == [1, 2]
    assert unsent(table.records[key].values["slots"], lost[:1]) == table.records[key].values["slots"]


def test_a_scope_that_somebody_else_has_locked_grants_nothing() -> None:
    worker = pacing(domains={"slow.example": A_MINUTE})
    worker.see({}, NOW)
    choice = worker.choose(["smtp"])([row(1, "slow.example"), row(2, "free.example")], {}, NOW)
    assert [*choice.grants] == [2]


def test_nonsense_in_the_table_is_said_and_put_right() -> None:
    worker = pacing(rates=(parse_rate("1/s"),))
    faults = worker.see({OUTBOX: Record(values={"slots": "{", "pace": 7, "paused_until": None, "reason": None})}, NOW)
    assert "slots" in faults[OUTBOX]
    assert worker.gate(10, NOW, usable=["smtp"]).limit == 1


@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(0.0, 3.0), st.integers(1, 40)), min_size=5, max_size=60),
    st.sampled_from([("20/m", 1), ("60/m", 5), ("5/s", 1), ("40/m", 3)]),
)
def test_no_window_holds_more_than_the_limit_and_the_burst_however_many_workers_claim(
    rounds: list[tuple[int, float, int]], rate: tuple[str, int]
) -> None:
    limit = limited(rate[0], burst=rate[1])
    workers = [pacing(domains={"slow.example": limit}) for _ in range(3)]
    table, now, sent, number = Table(), NOW, [], 0
    for who, pause, many in rounds:
        now += timedelta(seconds=pause)
        rows = [row(number + n, "slow.example") for n in range(1, many + 1)]
        number += many
        sent += [grant.at or now for grant in table.claim(workers[who], rows, now).values()]
    pace = parse_rate(rate[0])
    sent.sort()
    for first in sent:
        within = [at for at in sent if first <= at < first + timedelta(seconds=pace.period)]
        assert len(within) < pace.count + rate[1]


def test_no_slot_is_taken_for_the_time_that_a_claim_needs() -> None:
    worker, table = pacing(rates=(parse_rate("10/s"),)), Table()
    worker.claimed_in(0.2)
    granted = table.claim(worker, [row(n, "a.example") for n in range(30)], NOW)
    assert granted[0].at == NOW + timedelta(seconds=0.3)
    assert max(grant.at for grant in granted.values()) <= NOW + timedelta(seconds=1.3)


def test_a_quick_claim_takes_the_first_slot_there_is() -> None:
    worker, table = pacing(rates=(parse_rate("10/s"),)), Table()
    worker.claimed_in(0.003)
    assert table.claim(worker, [row(1, "a.example")], NOW)[1].at == NOW


@given(slots=st.integers(1, 100), used=st.integers(0, 100))
def test_no_more_slots_are_taken_than_were_used_of_late_but_one_at_least(slots: int, used: int) -> None:
    worker, table = pacing(rates=(parse_rate("1000/s"),)), Table()
    worker.served(Counter({OUTBOX: slots}), missed=Counter({OUTBOX: max(0, slots - used)}), late=Counter())
    granted = table.claim(worker, [row(n, "a.example") for n in range(120)], NOW)
    is_slow = (slots - used) * 4 > slots  # fewer are missed by chance
    assert len(granted) == (max(1, used) if is_slow else 100)


def test_slots_that_are_kept_bring_more_of_them() -> None:
    worker = pacing(rates=(parse_rate("1000/s"),))
    worker.served(Counter({OUTBOX: 100}), missed=Counter({OUTBOX: 96}), late=Counter())
    for _ in range(5):
        worker.served(Counter({OUTBOX: 4}), missed=Counter(), late=Counter())
    assert worker.at_most == {OUTBOX: 5}
    worker.served(
        Counter({OUTBOX: 3}), missed=Counter(), late=Counter()
    )  # there was no more to send: that proves nothing
    assert worker.at_most == {OUTBOX: 5}


def test_rows_that_come_too_late_for_their_slots_have_later_ones_the_next_time() -> None:
    worker = pacing(rates=(parse_rate("10/s"),))
    for _ in range(3):
        worker.served(Counter({OUTBOX: 10}), missed=Counter(), late=Counter({OUTBOX: 10}))
        worker.claimed_in(0.001)
    assert worker.lead == pytest.approx(0.2)
    for _ in range(20):
        worker.served(Counter({OUTBOX: 10}), missed=Counter(), late=Counter())
        worker.claimed_in(0.001)
    assert worker.lead == 0


def test_what_pauses_is_asked_of_all_that_a_row_falls_under() -> None:
    worker, table = pacing(), Table()
    table.pause(ScopeKey("sender", "@shop.example"), NOW + timedelta(minutes=1))
    worker.see(table.records, NOW)
    assert worker.is_paused("a.example", None, "smtp", NOW)
    assert not worker.is_paused("a.example", "a@other.example", "smtp", NOW)
    assert not worker.is_paused("a.example", None, "smtp", NOW + timedelta(minutes=1))


def test_no_spelling_of_a_sender_passes_its_limit_by() -> None:
    worker = pacing(senders={"news@xn--mnchen-3ya.example": A_MINUTE})
    for sender in ("news@münchen.example", "News <NEWS@MÜNCHEN.example>", "news@XN--mnchen-3ya.example"):
        assert worker.address_of(sender) == "news@xn--mnchen-3ya.example"

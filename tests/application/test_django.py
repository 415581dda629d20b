"""Django: mail in the current transaction, the admin that reads, the checks, and `manage.py poller`."""

from __future__ import annotations

import os
import subprocess
import sys
from email.message import MIMEPart
from email.mime.image import MIMEImage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
import pytest
import sqlalchemy as sa
from application import django_site
from outbox.ground import deferred, insert, store_for

import poller
from poller.outbox.database import connect
from poller.outbox.report import attachments_of
from poller.outbox.tables import outbox
from poller.pacing.gate import Gate

django_site.configure()

from django.contrib.auth import get_user_model  # noqa: E402 - the site comes first
from django.core import checks, mail  # noqa: E402
from django.core.mail import EmailMessage, EmailMultiAlternatives  # noqa: E402
from django.core.management import CommandError, call_command  # noqa: E402
from django.db import transaction  # noqa: E402
from django.test import Client, override_settings  # noqa: E402

from poller.contrib.django import EmailBackend, place  # noqa: E402
from poller.contrib.django.letters import Refused  # noqa: E402
from poller.contrib.django.models import Row  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings

SQLITE = pytest.mark.parametrize("kind", ["sqlite"])


@pytest.fixture
def db(database: DatabaseSettings) -> Iterator[Any]:
    with django_site.database(database.url) as connection:
        yield connection


@pytest.fixture
def engine(database: DatabaseSettings) -> Iterator[Engine]:
    made = connect(database)
    yield made
    made.dispose()


def rows(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(outbox).order_by(outbox.c.id)))


@pytest.mark.usefixtures("db")
def test_a_mail_goes_in_with_the_transaction_and_not_without_it(engine: Engine) -> None:
    with transaction.atomic():
        mail.send_mail("rolled back", "Hi", None, ["a@example.com"])
        transaction.set_rollback(True)
    with transaction.atomic():
        mail.send_mail("committed", "Hi", None, ["a@example.com"], html_message="<p>Hi")
    mail.send_mail("alone", "Hi", None, ["a@example.com"])
    many = [("m1", "Hi", None, ["a@example.com"]), ("m2", "Hi", None, ["b@example.com"])]
    assert mail.send_mass_mail(many) == 2
    assert [(row.subject, row.sender, row.body_html) for row in rows(engine)] == [
        ("committed", "shop@example.com", "<p>Hi"),
        ("alone", "shop@example.com", None),
        ("m1", "shop@example.com", None),
        ("m2", "shop@example.com", None),
    ]


def picture() -> Any:
    """As Django has it attached: by the older classes until 6.0, by the newer ones since."""
    image: Any = MIMEImage(b"\x89PNG", "png") if django.VERSION < (6, 0) else MIMEPart()
    if django.VERSION >= (6, 0):
        image.set_content(b"\x89PNG", "image", "png", disposition="inline")
    image["Content-ID"] = "<logo>"
    return image


@SQLITE
@pytest.mark.usefixtures("db")
def test_a_message_with_everything_is_kept(engine: Engine) -> None:
    message = EmailMultiAlternatives(
        subject="Grüße",
        body="Hi",
        from_email="bounces@example.com",
        to=['"Müller, Anna" <a@example.com>', ""],
        cc=["c@example.com"],
        bcc=["b@example.com"],
        reply_to=["r@example.com"],
        headers={"From": "Shop <shop@example.com>", "X-A": "ä", "Message-ID": "<1@example.com>", "Date": "now"},
        attachments=[("a.csv", "ä", "text/csv"), ("a.pdf", b"%PDF", "application/pdf")],
    )
    message.attach_alternative('<img src="cid:logo">', "text/html")
    message.poller = {"dedupe_key": "k", "priority": 0}
    assert message.send() == 1
    message.attach(picture())
    message.to.remove("")  # Django itself makes no header with it
    message.poller = {"batch": "b"}
    backend = EmailBackend(batch="default", priority=8)
    assert backend.send_messages([message]) == 1
    first, second = rows(engine)
    for row in (first, second):
        assert (row.recipients, row.cc, row.bcc, row.reply_to) == (
            '"Müller, Anna" <a@example.com>',
            "c@example.com",
            "b@example.com",
            "r@example.com",
        )
        assert (row.sender, row.envelope_from, row.message_id, row.headers) == (
            "Shop <shop@example.com>",
            "bounces@example.com",
            "<1@example.com>",
            {"X-A": "ä"},
        )
        assert (row.subject, row.body_text.strip(), row.body_html.strip()) == ("Grüße", "Hi", '<img src="cid:logo">')
    assert (first.dedupe_key, first.priority, second.batch, second.priority) == ("k", 0, "b", 8)
    files = [(file["name"], file["content"], file["content_type"]) for file in attachments_of(engine, first.id)]
    csv, pdf = ("a.csv", "ä".encode(), 'text/csv; charset="utf-8"'), ("a.pdf", b"%PDF", "application/pdf")
    assert files == [csv, pdf]
    names = {(file["name"], file["content_id"]) for file in attachments_of(engine, second.id)}
    assert names == {("a.csv", None), ("a.pdf", None), ("", "logo")}


REFUSED = {
    "recipients: 'a@example.com, b@example.com' holds 2": {"to": ["a@example.com, b@example.com"]},
    "subject: a line end": {"subject": "a\nBcc: b@example.com"},
    "headers: To would be shown to readers": {"headers": {"To": "list@example.com"}},
}


@SQLITE
@pytest.mark.usefixtures("db")
@pytest.mark.parametrize(("words", "given"), REFUSED.items(), ids=REFUSED)
def test_what_cant_be_sent_is_refused_at_once_and_left_out_silently_if_asked(
    engine: Engine, words: str, given: dict[str, Any]
) -> None:
    message = EmailMessage(**{"subject": "Hi", "body": "Hi", "to": ["a@example.com"], **given})
    for error in (ValueError, poller.Unsendable, Refused):
        with pytest.raises(error, match=f"^{words}"):
            EmailBackend().send_messages([message])
    silent = EmailBackend()
    vars(silent)["fail_silently"] = True
    assert silent.send_messages([message, EmailMessage(body="Hi", to=["a@example.com"])]) == 1
    assert len(rows(engine)) == 1


@SQLITE
def test_a_view_that_fails_sends_nothing_where_requests_are_transactions(db: Any, engine: Engine) -> None:
    client = Client(raise_request_exception=False)
    db.settings_dict["ATOMIC_REQUESTS"] = True
    assert [client.get(url).status_code for url in ("/order?fail", "/order")] == [500, 200]
    assert len(rows(engine)) == 1


@pytest.mark.usefixtures("db")
def test_the_admin_tells_a_mails_story_and_lets_nobody_write(engine: Engine) -> None:
    call_command("migrate", verbosity=0)
    row_id = insert(engine, subject="<b>Hi", body_text="a secret", dedupe_key="k")
    store = store_for(engine, "w1")
    (row,) = store.claim(Gate(limit=1))
    store.record([deferred(store, row)])
    get_user_model().objects.create_superuser("anna", password="x")
    client = Client()
    assert client.login(username="anna", password="x")
    listed = client.get("/admin/poller_outbox/row/?q=k&status=queued").content.decode()
    assert ("&lt;b&gt;Hi" in listed, "queued" in listed, "a secret" in listed) == (True, True, False)
    page = f"/admin/poller_outbox/row/{row_id}/change/"
    shown = client.get(page).content.decode()
    assert ("greylisted" in shown, "deferred" in shown, "a secret" in shown) == (True, True, False)
    assert [client.post(url).status_code for url in (page, page.replace("change", "delete"))] == [403, 403]
    assert client.get("/admin/poller_outbox/row/add/").status_code == 403
    found = Row.objects.get()
    for refused in (found.save, found.delete):
        with pytest.raises(TypeError, match=r"^the outbox is read here"):
            refused()


@pytest.mark.usefixtures("db")
def test_the_checks_find_the_outbox_and_say_what_a_view_may_do(engine: Engine, kind: str) -> None:
    run = {"include_deployment_checks": True, "databases": ["default"]}
    assert [found.id for found in checks.run_checks(**run) if "poller" in found.id] == ["poller.W001"]
    drop = "DROP VIEW outbox_state, outbox_rows" if kind != "sqlite" else "DROP VIEW outbox_state"
    with engine.begin() as connection:
        connection.exec_driver_sql(drop)
        connection.exec_driver_sql("ALTER TABLE outbox RENAME TO other")
    (found,) = (found for found in checks.run_checks(**run) if found.id == "poller.E003")
    assert "there is no outbox in 'default' that we may write to" in found.msg
    with override_settings(POLLER_DATABASE="nowhere"):
        assert [found.id for found in checks.run_checks() if "poller" in found.id] == ["poller.E001"]


@pytest.mark.usefixtures("db")
def test_the_commands_are_the_services_own_on_this_projects_outbox(engine: Engine) -> None:
    insert(engine)
    assert '"queued": 1' in call_command("poller", "status", "--json")
    with pytest.raises(CommandError, match="nonsense"):
        call_command("poller", "nonsense")


@SQLITE
def test_manage_py_becomes_the_service(db: Any, engine: Engine, tmp_path: Path) -> None:
    insert(engine)
    manage = tmp_path / "manage.py"
    manage.write_text(
        "import sys\nfrom application import django_site\n"
        "from django.core.management import execute_from_command_line\n"
        "django_site.configure()\nfrom django.db import connections\n"
        f"with django_site.database({place.url(db.vendor, db.settings_dict)!r}):\n"
        "    execute_from_command_line(sys.argv)\n"
    )
    paths = os.pathsep.join([str(Path(poller.__file__).parents[1]), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths}
    for arguments, code in ((["show", "1"], 0), (["--help"], 0), (["nonsense"], 2)):
        command = [sys.executable, str(manage), "poller", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == code, done.stderr


URLS = {
    "postgresql://shop:a%3Ab%40%2F@db.example.com:5433/shop": (
        "postgresql",
        {"NAME": "shop", "USER": "shop", "PASSWORD": "a:b@/", "HOST": "db.example.com", "PORT": "5433"},
    ),
    "postgresql:///shop?host=%2Fvar%2Frun%2Fpostgresql": (
        "postgresql",
        {"NAME": "shop", "HOST": "/var/run/postgresql"},
    ),
    "mysql://shop@/shop?unix_socket=%2Frun%2Fmysqld.sock": (
        "mysql",
        {"NAME": "shop", "USER": "shop", "HOST": "/run/mysqld.sock"},
    ),
    "sqlite:////srv/shop.db": ("sqlite", {"NAME": Path("/srv/shop.db")}),
}


@pytest.mark.parametrize(("url", "given"), URLS.items(), ids=URLS)
def test_the_service_reaches_the_database_that_django_has(url: str, given: tuple[str, dict[str, Any]]) -> None:
    assert place.url(*given) == url


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_the_rights_of_an_application_are_enough_to_send_and_to_be_checked(
    login: Callable[[str], Engine], engine: Engine
) -> None:
    url = login("outbox_app").url.render_as_string(hide_password=False)
    with django_site.database(url):
        found = checks.run_checks(include_deployment_checks=True, databases=["default"])
        assert [one.id for one in found if "poller" in str(one.id)] == ["poller.W001"]
        message = EmailMessage("Hi", "Hi", to=["a@example.com"], attachments=[("a.pdf", b"%PDF", "application/pdf")])
        assert EmailBackend().send_messages([message, message]) == 2
    assert len(rows(engine)) == 2

"""What is for PostgreSQL alone. Imported when the outbox is there: its dialect takes a while to import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects.postgresql.base import PGTypeCompiler

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


class _PlainText(PGTypeCompiler):
    def visit_VARCHAR(self, type_: Any, **kw: Any) -> str:  # noqa: N802 - SQLAlchemy's name
        return "TEXT" if type_.length is None else super().visit_VARCHAR(type_, **kw)


def send_plain_text(engine: Engine) -> None:
    """Texts travel as `text`: for `text = varchar` the server looks for an operator that fits better than its own."""
    engine.dialect.type_compiler_instance = _PlainText(engine.dialect)

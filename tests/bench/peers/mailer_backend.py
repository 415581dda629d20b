"""Django's SMTP backend that keeps its connection between messages."""

from __future__ import annotations

from typing import Any

from django.core.mail.backends.smtp import EmailBackend


class Persistent(EmailBackend):
    """Opened once: who finds the connection open does not close it either."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.open()

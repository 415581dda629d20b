"""The app, as INSTALLED_APPS names it."""

from __future__ import annotations

from django.apps import AppConfig


class OutboxConfig(AppConfig):
    """Its label is not `poller`: a project may well have an app of that name."""

    name = "poller.contrib.django"
    label = "poller_outbox"
    verbose_name = "Outbox"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Checks are registered by being imported."""
        from poller.contrib.django import checks  # noqa: F401, PLC0415 - apps have to be loaded first

"""Django: mail in the transaction of the business beside it, and its story in the admin.

MAILERS = {"default": {"BACKEND": "poller.contrib.django.EmailBackend"}}     # Django 6.1
EMAIL_BACKEND = "poller.contrib.django.EmailBackend"                         # before
INSTALLED_APPS = [..., "poller.contrib.django"]                              # admin, checks, `manage.py poller`

backend     `EmailBackend`
letters     Django's EmailMessage as a `Mail`
place       which database is the outbox's, and as what the service knows it
models      the outbox's views; unmanaged
admin       to be read
checks      what `manage.py check` says
management  `manage.py poller …`: the service's own commands
"""

from poller.contrib.django.backend import EmailBackend as EmailBackend

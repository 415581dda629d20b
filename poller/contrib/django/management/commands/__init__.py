"""One: `manage.py poller`."""

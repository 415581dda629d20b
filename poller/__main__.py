"""`python -m poller`."""

from poller.cli import main

main(prog_name="poller")

"""What comes back: bounces, delays and complaints find their row. Beside the worker, with the extra `bounces`.

read      pure: what a message says
match     whose message it was
mailbox   where such messages lie: Maildir, mbox, IMAP, standard input
post      one message after another, from there into the outbox
"""

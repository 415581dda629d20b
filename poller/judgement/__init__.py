"""Pure: what an exchange means, whose doing it was, and what becomes of the row.

outcome           an exchange -> sent, deferred, failed or in doubt, and who is to blame
retry             an outcome -> the next step of the row
keeping           what of a message is kept beside its row
refusals          identical refusals of row after row: an incident of the relay or of a destination
deferrals         recipient after recipient is deferred for no reason that is known
dropped_sessions  sessions that end early: the relay's doing or a destination's
accepted          what each destination accepted of late
rest              how long a relay in trouble is left alone
providers         which provider takes a domain's mail
alike             reasons that differ in addresses and ids alone
advice            what a reply asks for beyond its code, with a table of known replies

Time is passed in. Nothing here knows a database, a socket or a file.
"""

"""One batch: rows in hand, each made into a message, sent, judged and recorded.

arrow       the way of a row through all of it: read this first
hand        rows that were claimed and not begun
claiming    how the next rows are claimed
prefetch    the next rows, claimed while the last are being sent
routes      by which relay a row goes, and its slot
returns     rows that go back as they were
prepare     pure: who is asked now, who is settled without, and the message
kept        content that stays what it was, from one try to the next
files       the files of a row: its own, shared ones, and those below a directory
compose     rows made into messages, journalled; the next one while the last is being answered
session     one relay as this worker knows it
weigh       from an exchange to a decision: what to record, and what pauses
outcomes    from a decision to the row: the step, its line in the log, the recorder
clock       the database's time between two looks at it
claim_plan  pure: what a claim may take, and which rows go when, and by which relay
throttle    everybody's limits, obeyed, and replies that ask for less
recorder    outcomes on their way into the database
"""

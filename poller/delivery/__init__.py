"""One batch: rows in hand, each made into a message, sent, judged and recorded.

arrow       the way of a row through all of it: read this first
hand        rows that were claimed and not begun
prefetch    the next rows, claimed while the last are being sent
prepare     pure: who is asked now, who is settled without, and the message
compose     rows made into messages, journalled; the next one while the last is being answered
session     one relay as this worker knows it
claim_plan  pure: what a claim may take, and which rows go when, and by which relay
throttle    everybody's limits, obeyed, and replies that ask for less
recorder    outcomes on their way into the database
"""

"""What people ask of an outbox and its configuration, in words and values: for the command line and the page alike.

standing   how the limits stand, and what waits for them
foresight  when what waits will have gone, or why nobody can say
reasons    why a row is or is not going
causes     what failures have in common
letter     the message that a row makes today
"""

"""Batches: how far each is, told once when it is done; paused when too much of its beginning fails.

life        pure: what a look at a batch makes of what is known of it
report      pure: what is told
watch       one round: what moved, what is done, whom to tell
settings    `[batches]`
"""

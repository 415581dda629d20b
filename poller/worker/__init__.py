"""One process: it starts, lives, is killed, and comes back.

service   scheduler, signals, shutdown
loop      what the delivering thread does
wiring    how the rooms are put together
life      one life: its entry, what it left before, its heartbeat
recovery  the road back after a crash
notify    what a supervisor is told
lease     how long a worker may still act on what it claimed
state     the state directory: who a worker is, and that it is alone
"""

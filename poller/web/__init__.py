"""What a worker says over HTTP: whether it is alive, whether it can send, and numbers for a monitoring system.

health   alive and ready, in words
metrics  the numbers, for Prometheus
server   the listener; it reads, and changes nothing
"""

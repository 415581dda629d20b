"""Alarms for people without a monitoring system: judged by any worker, told by one.

conditions  pure: what is wrong, by the settings
alarms      pure: when an alarm is told, reminded of, and called off
tell        by mail past the outbox, by a command, by a signed webhook
watch       one round: look, judge, tell
settings    `[alerts]`
"""

"""One file, read once, whole, and refused with every reason at once.

load     sections and what they mean together
sources  where settings are written: a file, the environment, secrets
"""

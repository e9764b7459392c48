"""Readers of other tools' files: SCALE-Sim here; each importer ends in a Machine or a Trace and nothing else.

What a format cannot say is stated by its reader, never guessed; what a file has and we ignore is warned of.  Read
scalesim.py next.
"""

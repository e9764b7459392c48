"""The pruner inside other people's training loops: one file for each loop, each needs the package it adapts to.

Nothing here is imported by the rest of codesign.  It leaves out what a pruner does; read ../pruner.py for that,
making.py for what the adaptors share.
"""

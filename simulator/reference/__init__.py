"""The slow, cycle-stepped twin of every machine model, under the same file name as in ../machines.

A twin moves real operands through registers, buffers and the DRAM channel, one clock edge at a time, so that
cycles and counts are observed and not computed, and the product that comes out can be checked.  It leaves out
nothing that docs/model.md states and shares no code with the fast engine.  Read systolic.py next.
"""

"""Sweeps over accelerator configurations: resumable, exact fronts, one page of HTML.

Start with run.py: `run_study(path)`.  This package knows the simulator and nothing of torch; results of
training reach it as trace files or through an evaluation function named by dotted path.
"""

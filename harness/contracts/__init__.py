"""What every method, net, map, corruption, suite and data set promises: tests ask ours, `harness.check` a plug-in.

A promise is a function of a name that raises `AssertionError` with one line that says what to do. `KINDS` of
`kinds.py` has those of each kind.
"""

"""Points of a Hydra application that is not ours, launched as this launcher's runs.

callback.py   in each rank, and in the application's own process where there is no sweep
entry.py      what a rank runs: the application's script, its function, or a pickled one
call.py       the module that calls a function by its name
pickled.py    the script of a function that has none
composed.py   a composed point as its ranks are to compose it too
jobs.py       a composed point -> its job
outputs.py    the folders that Hydra gives to points
launch.py     points -> runs -> what they returned
"""

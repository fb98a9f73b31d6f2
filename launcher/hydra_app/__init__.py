"""Points of a Hydra application that is not ours, launched as this launcher's runs.

callback.py   in each rank, and in the application's own process where there is no sweep
entry.py      what a rank runs: the application's script, or a function that is in none
pickled.py    the script of such a function
jobs.py       a composed point -> its job
launch.py     points -> runs -> what they returned
"""

"""Hostile input by the million: whatever is read of somebody else's bytes, fed with damaged ones.

    python -m tests.fuzz [TARGET …] [--seconds N] [--seed S]        ./dev fuzz

A target (targets.py, video.py, packed.py) takes bytes, gives them to what reads such bytes in the product, and holds
what comes of it against what must be true of it. Inputs are those of tests/corpus/TARGET, as they are and then mutated
(mutate.py). An input is a finding where anything comes out but the refusals that the target names, where what was
promised does not hold, where it takes longer than a deadline or more memory than a bound, and where it takes the
process along (run.py). What is found is written to a folder; what it shows is fixed, and the input, cut down by hand,
goes into the corpus, which `./dev test` goes through.
"""

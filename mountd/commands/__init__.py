"""The commands of `egofs`, a module each: `egofs NAME` is `command` in NAME.py, imported only then.

A command checks what it was given, calls what does the work, and says what came of it; what it raises (EgofsError)
mountd.cli makes one line and a status of.
"""

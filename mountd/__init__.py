"""The daemon and its command line: configuration, mounting, lifecycle.

It alone parses arguments and reads the environment.
"""

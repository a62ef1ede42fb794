"""The filesystem: sources, cache, datasets, frames and the tree that FUSE serves.

Nothing below this package parses arguments, reads the environment or knows that it runs in a daemon.
"""

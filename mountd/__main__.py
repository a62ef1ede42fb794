"""`python -m mountd` is `egofs`."""

from mountd.cli import main

main()

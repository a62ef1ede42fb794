"""`python -m bench`: egofs beside others on one server.

`frames`: the ways to frames. `metadata`: datasets whose tree is made of manifests. `local`: a small local one.
`order`: shuffled reading whose order is given.
"""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["local"]:
        from bench.local import main

        main()
    elif sys.argv[1:2] == ["frames"]:
        from bench.frames import main as frames

        frames(sys.argv[2:])
    elif sys.argv[1:2] == ["metadata"]:
        from bench.metadata import main as metadata

        metadata(sys.argv[2:])
    elif sys.argv[1:2] == ["order"]:
        from bench.order import main as order

        order(sys.argv[2:])
    else:
        from bench.compare import main as compare

        compare()

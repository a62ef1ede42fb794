"""`python -m bench`: egofs beside others on one server. `python -m bench local`: the small local benchmark."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["local"]:
        from bench.local import main
    else:
        from bench.compare import main
    main()

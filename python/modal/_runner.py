"""Starts the runner: `python …/modal/_runner.py`, with the engine's socket as descriptor 3.

The work is in `modal._container`, because Python caches the bytecode of modules, not of the file it is started with.
"""

import sys

if __name__ == "__main__":
    # Python put this file's own directory first, where `image.py` or `app.py` would shadow the user's modules.
    sys.path[0] = __file__.rsplit("/", 2)[0] if "/" in __file__ else ".."
    from modal._container import main

    main()

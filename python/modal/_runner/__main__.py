"""Starts the runner: `python …/modal/_runner/__main__.py`, with the engine's socket as descriptor 3.

With a file as its argument it executes the build step that this describes.

The work is in `modal._runner.runner`: Python caches the bytecode of modules, not of the file it is started with.
"""

import gc
import os
import sys

if __name__ == "__main__":
    # Garbage is looked for in what the user's code makes, not in what the runner consists of: a tenth of its start.
    gc.disable()
    if not getattr(sys.flags, "safe_path", False):
        # Python put this file's own directory first, where `image.py` or `app.py` would shadow the user's modules.
        del sys.path[0]
    # Other programs of the container find the package after all else, by their PYTHONPATH; here it comes first.
    package = __file__.rsplit("/", 3)[0]
    sys.path[:] = [package, *(each for each in sys.path if each != package)]
    import modal

    modal._process = os.getpid()
    if len(sys.argv) > 1:
        from modal._runner.step import main as run_step

        gc.enable()
        run_step(sys.argv[1])
    else:
        from modal._runner.runner import main

        gc.freeze()
        gc.enable()
        main()

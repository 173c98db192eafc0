"""Compiles the standard library of the interpreter that runs it, if that came without its bytecode.

It names time and size of the source, as usual: a later step may change that.
"""

import compileall
import os
import re
import sysconfig
from importlib.util import cache_from_source

#: What programs do not import, and what is no part of the library.
LEFT_OUT = re.compile(r"/(tests?|idlelib|lib2to3|turtledemo|ensurepip|pydoc_data|site-packages|dist-packages)/")


def main():
    """Compiles; a module that cannot be compiled is left to those who import it."""
    library = sysconfig.get_path("stdlib")
    if not os.path.exists(cache_from_source(os.path.join(library, "os.py"))):
        compileall.compile_dir(library, quiet=2, rx=LEFT_OUT)


main()

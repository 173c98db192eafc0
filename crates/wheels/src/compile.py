"""Compiles Python sources that arrive on standard input; runs in a sandbox on the image's interpreter.

Request: two little-endian 32-bit lengths, the path that tracebacks shall show, the source.
Answer: a 32-bit length and the contents of the `.pyc`; the length 0 for a source that does not compile.
The `.pyc` files name the time that installed packages have, and the size of their source: Python uses them only while
the source is the one that they were made from.
"""

import gc
import marshal
import struct
import sys
from importlib.util import MAGIC_NUMBER

PACKAGE_TIME = 946_684_800


def compiled(path, source):
    """The contents of the `.pyc`; nothing when the source does not compile."""
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
        return MAGIC_NUMBER + struct.pack("<III", 0, PACKAGE_TIME, len(source)) + marshal.dumps(code)
    except Exception:
        return b""


def main():
    """Answers requests until there are no more."""
    if sys.implementation.cache_tag != sys.argv[1]:
        sys.exit(f"the interpreter is {sys.implementation.cache_tag}, not {sys.argv[1]}")
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    compiled("warm-up", b"x = 1\n")
    gc.freeze()
    gc.disable()
    while header := requests.read(8):
        path_length, source_length = struct.unpack("<II", header)
        path = requests.read(path_length).decode("utf-8", "surrogateescape")
        answer = compiled(path, requests.read(source_length))
        answers.write(struct.pack("<I", len(answer)))
        answers.write(answer)
        answers.flush()


main()

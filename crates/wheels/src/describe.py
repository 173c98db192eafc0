"""Describes the interpreter that runs it, for whoever installs packages without it; runs in a sandbox.

What would have an installer treat it in a way of its own is named as `unusual`.
"""

import glob
import json
import os
import platform
import re
import site
import subprocess
import sys
import sysconfig
from importlib.util import find_spec


def libc():
    """The C library: its name and the first two parts of its version."""
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
    except (OSError, ValueError):
        version = None
    found = re.fullmatch(r"glibc (\d+)\.(\d+).*", version or "")
    if found:
        return {"glibc": [int(found[1]), int(found[2])]}
    for loader in glob.glob(f"/lib/ld-musl-{platform.machine()}.so.1"):
        said = subprocess.run([loader], stderr=subprocess.PIPE, check=False).stderr.decode()
        found = re.search(r"^Version (\d+)\.(\d+)", said, re.MULTILINE)
        if found:
            return {"musl": [int(found[1]), int(found[2])]}
    return None


def unusual(paths, series):
    """What is not as installers find it elsewhere."""
    configured = os.path.join(paths["stdlib"], "distutils", "distutils.cfg")
    include = f"{sys.base_prefix}/include/python{series}"
    return [
        what
        for what, differs in {
            "implementation": sys.implementation.cache_tag != "cpython-" + series.replace(".", ""),
            "release": sys.version_info.releaselevel != "final",
            "abi": sys.abiflags or sysconfig.get_config_var("Py_GIL_DISABLED") or sysconfig.get_config_var("Py_DEBUG"),
            "bits": sys.maxsize <= 2**32,
            "library": paths["purelib"] != paths["platlib"] or sys.prefix != sys.exec_prefix,
            "headers": sys.prefix == sys.base_prefix and paths["include"] != include,
            "distutils": os.path.exists(configured),
            "vendor": hasattr(sysconfig, "_PIP_USE_SYSCONFIG") or find_spec("_manylinux"),
        }.items()
        if differs
    ]


def main():
    """Prints the description."""
    paths, series = sysconfig.get_paths(), f"{sys.version_info[0]}.{sys.version_info[1]}"
    standard = {paths["stdlib"], paths["platstdlib"], os.path.join(paths["platstdlib"], "lib-dynload")}
    sites = site.getsitepackages()
    found = [path for path in sys.path if path not in standard and not path.endswith(".zip")]
    description = {
        "version": platform.python_version(),
        "machine": platform.machine(),
        "executable": sys.executable,
        "base_executable": os.path.realpath(getattr(sys, "_base_executable", sys.executable)),
        "prefix": sys.prefix,
        "base_prefix": sys.base_prefix,
        "site_packages": paths["purelib"],
        "scripts": paths["scripts"],
        "data": paths["data"],
        "search": sites + [path for path in found if path not in sites],
        "libc": libc(),
        "unusual": unusual(paths, series),
    }
    print(json.dumps(description))


main()

"""A conda environment made by `py-rattler`, the library of pixi: `rattler_install.py CHANNEL PREFIX CACHE PACKAGE…`."""

import asyncio
import sys
from pathlib import Path

from rattler import Gateway, install, solve


async def main(channel: str, prefix: str, cache: str, *packages: str) -> None:
    """Solves and installs."""
    gateway = Gateway(cache_dir=Path(cache) / "repodata")
    records = await solve([channel], packages, gateway=gateway)
    await install(records, prefix, cache_dir=Path(cache) / "packages", show_progress=False)


asyncio.run(main(*sys.argv[1:]))

"""`modal._cli run|describe …`: what the `modal` command starts Python with, and a connection to the engine."""

from __future__ import annotations

import sys

EXIT_INTERRUPTED = 130


def start() -> int:
    """Runs the command. An interrupt is no failure to report, at whatever moment it comes."""
    from modal._shared.interpreter import signals

    signal = signals()
    try:
        # The `modal` command starts this process with interrupts blocked.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
        from modal._cli.command import main

        return main(sys.argv[1:])
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(start())

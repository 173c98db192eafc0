"""`modal._cli run|describe|build …`: what the `modal` command starts Python with, and a connection to the engine."""

from __future__ import annotations

import sys

EXIT_INTERRUPTED = 130


def start() -> int:
    """Runs the command. An interrupt is no failure to report, at whatever moment it comes."""
    import gc

    from modal._shared.interpreter import signals

    # Until the program itself is imported, there is nothing but what stays.
    gc.disable()
    signal = signals()
    try:
        # The `modal` command starts this process with interrupts blocked.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
        from modal._cli.command import main
        from modal._shared.settings import take_variables_alone

        take_variables_alone()

        return main(sys.argv[1:])
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(start())

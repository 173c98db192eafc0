"""An app that is deployed and does nothing: its process waits for the next year."""

import modal

app = modal.App("bench-rests", image=modal.Image.debian_slim(python_version="3.11"))


@app.function(schedule=modal.Cron("0 0 1 1 *"))
def yearly() -> None:
    """Keeps the process."""

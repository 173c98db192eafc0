"""The app whose image `modal shell` opens when it is given none: Modal's default image."""

from __future__ import annotations

from modal import App

app = App("shell", include_source=False)


@app.function()
def shell() -> None:
    """Stands for the image; nobody calls it."""

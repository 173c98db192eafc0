"""The same functions behind FastAPI, for uvicorn."""

import work
from fastapi import Body, FastAPI

app = FastAPI()


@app.post("/nothing")
def nothing(x: int = Body()) -> int:
    """Returns its argument."""
    return work.nothing(x)

"""A peer: FastAPI and nothing else, a process per core, each request an evaluation of its own.

``python -m loadtests.peers.fastapi_server PORT``
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI
from starlette.responses import Response

from loadtests.peers.work import Work, open_work

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


@cache
def work() -> Work:
    """The model of this process: processes share the cores, so each evaluates on one."""
    return open_work(threads=1)


@app.get("/readyz")
async def ready() -> dict[str, str]:
    """Opens the model."""
    work()
    return {"status": "ready"}


@app.post("/generate")
async def generate(body: Annotated[dict[str, Any], Body()]) -> Response:
    """One image. It takes about a millisecond: a thread's hop would cost as much."""
    (image,) = work().generate([body])
    return Response(image, media_type="image/png")


if __name__ == "__main__":
    uvicorn.run(
        "loadtests.peers.fastapi_server:app",
        host="127.0.0.1",
        port=int(sys.argv[1]),
        workers=len(os.sched_getaffinity(0)),
        log_level="warning",
        access_log=False,
    )

"""The solution without a runner: an endpoint of FastAPI, for n8n's own HTTP Request node.

`python -m tests.benchmarks.contestants.endpoint PORT`
"""

from __future__ import annotations

import sys
from typing import Dict

import fastapi
import uvicorn
from pydantic import BaseModel

app = fastapi.FastAPI()


class Numbers(BaseModel):
    number: float


@app.post("/double")
def double(body: Numbers) -> Dict[str, float]:
    return {"result": 2 * body.number}


@app.post("/copy")
async def copy_file(request: fastapi.Request) -> fastapi.Response:
    return fastapi.Response(await request.body(), media_type=request.headers["content-type"])


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")

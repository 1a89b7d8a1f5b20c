"""What HTTP costs elsewhere: the same GET by Starlette on Hypercorn under Trio, out of a dict.

python -m tests.bench.web_peer PORT
"""

from __future__ import annotations

import sys
from functools import partial

import hypercorn.config
import hypercorn.trio
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_values: dict[str, bytes] = {}


async def value(request: Request) -> Response:
    key = request.path_params["key"]
    if request.method == "PUT":
        _values[key] = await request.body()
        return Response()
    found = _values.get(key)
    return (
        Response(status_code=404) if found is None else Response(found, media_type="application/octet-stream")
    )


def main() -> None:
    config = hypercorn.config.Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    config.accesslog = None
    app = Starlette(routes=[Route("/{key}", value, methods=["GET", "PUT"])])
    trio.run(partial(hypercorn.trio.serve, app, config))


if __name__ == "__main__":
    main()

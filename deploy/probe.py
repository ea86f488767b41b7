"""Whether a server of ours is well, for health checks of containers: exit status 0 or 1, and a line that says why.

python -m deploy.probe http://127.0.0.1:8000/ready       2xx is well
python -m deploy.probe grpc://127.0.0.1:9001             SERVING is well
python -m deploy.probe                                   that of the variable PROBE_URL
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

_TIMEOUT_S = 5.0


def probe(url: str) -> str:
    """Why the server at `url` is not well; "" if it is.

    Raises:
        ValueError: `url` is neither http:// nor grpc://.
    """
    scheme, _, rest = url.partition("://")
    match scheme:
        case "http":
            return _http(url)
        case "grpc":
            return _grpc(rest)
    raise ValueError(f"not an http:// or grpc:// URL: {url}")


def _http(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by way of a proxy
    try:
        with opener.open(url, timeout=_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"{url} says {error.code}: {error.read(1000).decode(errors='replace')}"
    except OSError as error:
        return f"{url} can't be reached: {error}"


def _grpc(address: str) -> str:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            return f"{address} can't be reached: {error.details()}"
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return f"{address} says {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"
    return ""


def main() -> int:
    url = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PROBE_URL", "")
    if not url or len(sys.argv) > 2:
        print(__doc__, file=sys.stderr)
        return 2
    trouble = probe(url)
    if trouble:
        print(trouble, file=sys.stderr)
    return int(bool(trouble))


if __name__ == "__main__":
    sys.exit(main())

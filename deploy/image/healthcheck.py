"""Whether the service of this container lives: exit code 0 or 1. Asks /healthz by the service's own settings."""

from __future__ import annotations

import ssl
import sys
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

from indexer import settings


def main() -> int:
    serve = settings.load().serve
    scheme = "https" if serve.tls_cert else "http"
    port = serve.ops_port if serve.ops_port and serve.ops_port > 0 else serve.port
    url = f"{scheme}://127.0.0.1:{port}/healthz"
    try:
        # The certificate is for the name that clients use, and no secret is sent.
        own = HTTPSHandler(context=ssl._create_unverified_context())
        with build_opener(ProxyHandler({}), own).open(url, timeout=4) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:
        print(f"{url} does not answer: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

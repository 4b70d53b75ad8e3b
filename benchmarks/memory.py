"""What a process of the service holds in memory, by threads that score at once.

    python benchmarks/memory.py --workers 1,2,4

Starts `shelfrank serve` with both models that ship, without a cluster, and sends it rerankings of 100 documents of some
96 tokens, more at once than it has workers, as many times as `--calls` says. Prints resident megabytes after the
models were loaded, at the end, and at most.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent
SERVE = (sys.executable, "-c", "from indexer.cli import main; main()", "serve")
DOCUMENTS = [f"{place} insulated steel bottle, keeps tea warm 保温杯 不锈钢 " * 6 for place in range(100)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2,4", help="values of serve.workers, by commas")
    parser.add_argument("--threads", type=int, default=2, help="models.threads")
    parser.add_argument("--calls", type=int, default=40, help="rerankings for each value")
    asked = parser.parse_args()
    rows = [_measure(int(workers), asked.threads, asked.calls) for workers in asked.workers.split(",")]
    json.dump({"threads": asked.threads, "calls": asked.calls, "rows": rows}, sys.stdout, indent=2)
    print()


def _measure(workers: int, threads: int, calls: int) -> dict[str, int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OPENSEARCH_URL": "http://127.0.0.1:9",  # nobody: the rerank API needs no cluster
        "SHELFRANK_SERVE_PORT": str(port),
        "SHELFRANK_SERVE_WORKERS": str(workers),
        "SHELFRANK_SERVE_RERANK_DEADLINE_MS": "600000",
        "SHELFRANK_MODELS_THREADS": str(threads),
    }
    service = subprocess.Popen(SERVE, env=environment, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url)
        loaded = _kilobytes(service.pid, "VmRSS")
        each = calls // (workers + 1)
        callers = [threading.Thread(target=_calls, args=(url, each)) for _ in range(workers + 1)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
        end, most = _kilobytes(service.pid, "VmRSS"), _kilobytes(service.pid, "VmHWM")
    finally:
        service.terminate()
        service.wait(30)
    return {"workers": workers, "loaded_mb": loaded // 1024, "end_mb": end // 1024, "most_mb": most // 1024}


def _wait(url: str) -> None:
    """Until models are loaded: /readyz then misses the cluster alone."""
    over = time.monotonic() + 120
    while time.monotonic() < over:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=5)
        except urllib.error.HTTPError as error:
            if len(json.load(error)["missing"]) == 1:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit("The service did not load its models within 120 s.")


def _calls(url: str, calls: int) -> None:
    body = json.dumps({"model": "default", "query": "保温杯 steel bottle", "documents": DOCUMENTS}).encode()
    for _ in range(calls):
        request = urllib.request.Request(f"{url}/v2/rerank", body, {"content-type": "application/json"})
        urllib.request.urlopen(request, timeout=600).read()


def _kilobytes(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()

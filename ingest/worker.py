"""What runs on a worker: bundles that were shipped are verified and loaded, and batches become documents."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import ray

from indexer.errors import ShelfrankError, WorkerError
from indexer.settings import Models
from ingest.documents import Entry, Maker
from reranker import bundle as bundles
from reranker.bundle import DESCRIPTION, Bundle
from reranker.encoder import Encoder
from reranker.tokens import ProductTokens


class Shipped(msgspec.Struct, frozen=True):
    """A bundle on its way: its id and its files."""

    id: str
    kind: bundles.Kind
    files: dict[str, bytes]

    @classmethod
    def of(cls, bundle: Bundle) -> Shipped:
        """Pack a verified bundle."""
        names = [DESCRIPTION, *bundle.description.files]
        files = {name: (bundle.folder / name).read_bytes() for name in names}
        return cls(bundle.id, bundle.description.kind, files)

    def unpack(self, folder: Path) -> Bundle:
        """Write its files and verify them. Raises BundleError, WorkerError."""
        folder.mkdir()
        for name, data in self.files.items():
            (folder / Path(name).name).write_bytes(data)
        bundle = bundles.verify(folder, self.kind)
        if bundle.id != self.id:
            raise WorkerError(f"The {self.kind} {self.id} arrived as {bundle.id}. Was it replaced meanwhile?")
        return bundle


class Work(msgspec.Struct, frozen=True):
    """All that a worker needs to make documents."""

    version: str
    models: Models
    encoder: Shipped
    tokens: Shipped

    def maker(self) -> Maker:
        """Load the models. Raises BundleError, ProviderError, WorkerError."""
        if self.version != version("shelfrank"):
            raise WorkerError(
                f"This node has shelfrank {version('shelfrank')} and the job runs {self.version}; "
                "install the same version on every node."
            )
        with tempfile.TemporaryDirectory(prefix="shelfrank-") as folder:
            encoder = Encoder(self.encoder.unpack(Path(folder) / "encoder"), self.models)
            return Maker(encoder, ProductTokens(self.tokens.unpack(Path(folder) / "reranker")))


class Embedder:
    """What an actor runs: a row is a batch of entries (JSON), and becomes their documents (MessagePack)."""

    def __init__(self, work: list[Any]) -> None:
        self._work = work  # in a list, or Ray would fetch it before the actor begins
        self._maker: Maker | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row in, one row out. A failure that a user can understand is a `problem`, not an exception of Ray's."""
        [row] = batch.to_pylist()
        made, problem = b"", ""
        try:
            # Here, where a failure can be told, and not when the actor begins.
            self._maker = self._maker or ray.get(self._work[0]).maker()
            entries = msgspec.json.decode(row["entries"], type=list[Entry])
            made = msgspec.msgpack.encode(self._maker.documents(entries))
        except ShelfrankError as error:
            problem = f"On {ray.util.get_node_ip_address()}: {error}"
        return pa.table({"number": [row["number"]], "documents": [made], "problem": [problem]})

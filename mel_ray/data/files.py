"""Files: found in a local path or on the hub, and opened, plain or compressed."""

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

from mel_ray.config.schema import SourceConfig
from mel_ray.records.problem import ConfigError, Problem

KINDS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv")
COMPRESSED = (".gz", ".zst")
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class UnavailableError(ConfigError):
    """A dataset or model is not on this machine, and the hub did not give it."""


def kind_of(name: str) -> str | None:
    """The kind of a file by its name, e.g. ".jsonl" for a.jsonl.gz; None if it holds no questions."""
    path = Path(name.lower())
    suffix = Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix
    return suffix if suffix in KINDS else None


def find_files(source: SourceConfig, path: str) -> list[Path]:
    """The files of a table, in the order of their names; `path` names the source's configuration key.

    Raises:
        ConfigError: there are none.
    """
    key = f"{path}.path"
    if source.path is None:
        raise ConfigError([Problem(key, None, "a table needs a file, a folder or a dataset's hub id", "set it")])
    local = Path(source.path).expanduser()
    if not local.exists():
        if not is_hub_id(source.path) or kind_of(source.path):
            raise ConfigError([Problem(key, source.path, "there is no such file or folder", "give an existing one")])
        local = from_hub(key, source.path, [source.hub_files], "dataset")
    files = [local] if local.is_file() else sorted(file for file in local.rglob("*") if _holds_questions(file, local))
    if not files or any(kind_of(file.name) is None for file in files):
        why = f"there are no files of kind {', '.join(KINDS)}, plain or with {' or '.join(COMPRESSED)}"
        raise ConfigError([Problem(key, source.path, why, "give a file or folder of one of these kinds")])
    return files


def _holds_questions(file: Path, folder: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.is_file() and not is_hidden and kind_of(file.name) is not None


def is_hub_id(path: str) -> bool:
    """Whether a path that does not exist here may name something on the hub: owner/name."""
    return path.count("/") == 1 and not path.startswith((".", "/", "~"))


def from_hub(key: str, hub_id: str, patterns: Sequence[str], kind: str = "model") -> Path:
    """The folder with files of a model or dataset, downloaded or found in the cache; `key` names it in problems.

    Raises:
        UnavailableError: the hub did not give them.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(hub_id, repo_type=kind, allow_patterns=list(patterns))
    except Exception as error:  # the hub client raises a dozen kinds, which all mean: not available
        why = f"neither a local path nor available from the hub ({type(error).__name__})"
        remedy = "check the name and the network, or give a local copy"
        raise UnavailableError([Problem(key, hub_id, why, remedy)]) from error
    return Path(folder)


def read_bytes(file: Path) -> bytes:
    """What a file holds, decompressed.

    Raises:
        ValueError: the compressed data is cut off or damaged.
        OSError: the file cannot be read.
    """
    suffix = file.suffix.lower()
    if suffix == ".gz":
        try:
            with gzip.open(file) as stream:
                return stream.read()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"its gzip data is cut off or damaged ({error})") from error
    if suffix == ".zst":
        import pyarrow as pa

        data = file.read_bytes()
        try:
            with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
                return stream.read() if data else b""
        except OSError as error:
            raise ValueError(f"its zstd data is cut off or damaged ({error})") from error
    return file.read_bytes()


def read_text(file: Path) -> str:
    """What a text file holds, without a byte-order mark.

    Raises:
        ValueError: it is not UTF-8, or its compressed data is damaged.
    """
    data = read_bytes(file)
    if data.startswith(_UTF16_MARKS) or b"\x00" in data[:4]:
        raise ValueError("it is UTF-16 or UTF-32 text; save it as UTF-8")
    try:
        return data.removeprefix(_UTF8_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8") from error

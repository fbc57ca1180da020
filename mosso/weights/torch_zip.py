"""The zip archive ``torch.save`` writes, checked before anything in it is trusted."""

import pickletools
import zipfile
from pathlib import Path

import torch
from torch import Tensor

_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # first bytes of files from before torch 1.6
_PICKLE_LIMIT = 1 << 28  # bytes; MACE's pickles are 0.2 MB
_MEMO_OPCODES = ("PUT", "BINPUT", "LONG_BINPUT")  # the unpickler allocates as many slots as their argument says
_SCRIPT_REMEDY = "it is a TorchScript archive (compiled model): give the plain .model file it was compiled from"


class TorchFileError(ValueError):
    """The file is not a readable torch file; the message says why and what to do."""


class TorchZip:
    """An opened torch file: the pickle's bytes and the storages.

    Raises:
        TorchFileError: for anything that is not a whole, uncompressed, eager torch.save archive.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._storages: dict[str, bytearray] = {}
        self._zip = self._open()
        names = self._zip.namelist()
        pickles = [name for name in names if name.endswith("data.pkl") and name.count("/") <= 1]
        if any(name.endswith("constants.pkl") or "/code/" in f"/{name}" for name in names):
            raise self._refusal(_SCRIPT_REMEDY)
        if len(pickles) != 1:
            raise self._refusal("it is a zip archive without torch's data.pkl: give a file written by torch.save")
        self._root = pickles[0].removesuffix("data.pkl")
        self._check_sizes()
        if f"{self._root}byteorder" in names and self._read(f"{self._root}byteorder").strip() != b"little":
            raise self._refusal("it was written on a big-endian machine: save it again on a little-endian one")
        self.pickle_bytes = self._read(pickles[0])
        self._check_opcodes()

    def __enter__(self) -> "TorchZip":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def _refusal(self, reason: str) -> TorchFileError:
        return TorchFileError(f"{self._path}: {reason}.")

    def _open(self) -> zipfile.ZipFile:
        if not self._path.is_file():
            raise FileNotFoundError(f"{self._path}: there is no such file; check the path.")
        with self._path.open("rb") as file:
            head = file.read(512)
        try:
            return zipfile.ZipFile(self._path)
        except zipfile.BadZipFile as error:
            if head.startswith(b"PK"):
                raise self._refusal("the zip archive is truncated or damaged: fetch the file again") from error
            if head.startswith(_LEGACY_MAGIC) or head[257:262] == b"ustar":
                raise self._refusal(
                    "it is in torch's format from before version 1.6: load it and save it again with a newer torch"
                ) from error
            if head[:1] == b"\x80":
                raise self._refusal("it is a bare pickle: give a file written by torch.save (1.6 or newer)") from error
            raise self._refusal("it is not a torch file: give one written by torch.save") from error

    def _check_sizes(self) -> None:
        """Entries are stored, not compressed, so together they are no larger than the file: no allocation can be a bomb."""
        entries = self._zip.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise self._refusal("its entries are compressed, torch.save stores them plain: fetch the original file")
        if sum(entry.file_size for entry in entries) > self._path.stat().st_size:
            raise self._refusal("its entries claim more bytes than the file has: fetch the file again")

    def _read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except KeyError as error:
            raise self._refusal(f"entry {name} is missing: the file is incomplete, fetch it again") from error
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
            raise self._refusal(f"entry {name} is damaged ({error}): fetch the file again") from error

    def _check_opcodes(self) -> None:
        """Refuse opcodes whose argument alone would make the unpickler allocate without bound."""
        limit = len(self.pickle_bytes)
        if limit > _PICKLE_LIMIT:
            raise self._refusal(f"its pickle has {limit} bytes, more than any model: fetch the file again")
        try:
            memo = [int(str(argument)) for opcode, argument, _ in pickletools.genops(self.pickle_bytes) if opcode.name in _MEMO_OPCODES]
        except (ValueError, TypeError) as error:
            raise self._refusal(f"its pickle is damaged ({error}): fetch the file again") from error
        if memo and not 0 <= min(memo) <= max(memo) <= limit:
            raise self._refusal("its pickle is hostile (memo index out of range): do not use the file")

    def storage(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        """The one-dimensional tensor over entry ``data/key``; entries shared by tensors are read once."""
        if key not in self._storages:
            self._storages[key] = bytearray(self._read(f"{self._root}data/{key}"))
        data = self._storages[key]
        if count < 0 or count * dtype.itemsize != len(data):
            raise self._refusal(f"storage {key} has {len(data)} bytes where {count} of {dtype} are due: fetch the file again")
        return torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)

"""Named models: a table of what exists, and fetching one of them into the cache."""

import difflib
import hashlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mosso.data.atomic import atomic_path

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all where the server says

_EMBEDDED = Path(__file__).parent / "embedded"
_CHUNK = 1 << 18
_TIMEOUT = 60.0  # seconds without a byte

_MP = "https://github.com/ACEsuit/mace-mp/releases/download"
_FOUNDATIONS = "https://github.com/ACEsuit/mace-foundations/releases/download"
_OFF = "https://github.com/ACEsuit/mace-off/raw/main"  # these two families are files of the repository, not of a release
_ASL = "ASL (Academic Software License: academic, non-commercial use)"
_CITE_MP = "Batatia et al., A foundation model for atomistic materials chemistry, arXiv:2401.00096"
_CITE_OMAT = f"{_CITE_MP}; Barroso-Luque et al., Open Materials 2024 (OMat24), arXiv:2410.12771"
_CITE_MATPES = f"{_CITE_MP}; Kaplan et al., A Foundational Potential Energy Surface Dataset for Materials, arXiv:2503.04070"
_CITE_OFF = "Kovacs et al., MACE-OFF: Transferable Short Range Machine Learning Force Fields for Organic Molecules, arXiv:2312.15211"


@dataclass(frozen=True)
class NamedModel:
    """One row of the table.

    Attributes:
        name: what ``--model`` takes.
        family: how the file is read: ``mace`` (upstream .model) or ``mosso`` (a model file).
        url: where it is downloaded; None for a model that ships with the package.
        file_name: its name in the cache, on a mirror, or in the package.
        sha256: of the file, hexadecimal; None where nobody has stated it.
        licence: of the weights.
        citation: what users of the weights cite.
        note: what it is for.
    """

    name: str
    family: str
    url: str | None
    file_name: str
    sha256: str | None
    licence: str
    citation: str
    note: str


def _mace(name: str, url: str, licence: str, citation: str, note: str) -> NamedModel:
    return NamedModel(name, "mace", url, url.rpartition("/")[2], None, licence, citation, note)


_MP0 = "materials, 89 elements, PBE+U, MPtrj"
_MP0B = f"{_MP0}; with short-range repulsion"
_MP0B2 = f"{_MP0}; with short-range repulsion, steadier at high pressure"
_OFF23 = "neutral organic molecules, 10 elements, wB97M-D3(BJ), SPICE 1"

MODELS: tuple[NamedModel, ...] = (
    NamedModel(
        "mosso-xtb-s",
        "mosso",
        None,
        "mosso-xtb-s.mosso",
        "c8f817c8d97d123647fb2880fa8e9dbd100a7e6e8b351c8f185436a065911bbd",
        "MIT",
        "mosso",
        "molecules, clusters and liquids of H, C, N, O; GFN2-xTB; ships with the package",
    ),
    _mace("mace-mp-0-small", f"{_MP}/mace_mp_0/2023-12-10-mace-128-L0_energy_epoch-249.model", "MIT", _CITE_MP, _MP0),
    _mace("mace-mp-0-medium", f"{_MP}/mace_mp_0/2023-12-03-mace-128-L1_epoch-199.model", "MIT", _CITE_MP, _MP0),
    _mace("mace-mp-0-large", f"{_MP}/mace_mp_0/MACE_MPtrj_2022.9.model", "MIT", _CITE_MP, _MP0),
    _mace("mace-mp-0b-small", f"{_MP}/mace_mp_0b/mace_agnesi_small.model", "MIT", _CITE_MP, _MP0B),
    _mace("mace-mp-0b-medium", f"{_MP}/mace_mp_0b/mace_agnesi_medium.model", "MIT", _CITE_MP, _MP0B),
    _mace("mace-mp-0b2-small", f"{_MP}/mace_mp_0b2/mace-small-density-agnesi-stress.model", "MIT", _CITE_MP, _MP0B2),
    _mace("mace-mp-0b2-medium", f"{_MP}/mace_mp_0b2/mace-medium-density-agnesi-stress.model", "MIT", _CITE_MP, _MP0B2),
    _mace("mace-mp-0b2-large", f"{_MP}/mace_mp_0b2/mace-large-density-agnesi-stress.model", "MIT", _CITE_MP, _MP0B2),
    _mace("mace-mp-0b3-medium", f"{_MP}/mace_mp_0b3/mace-mp-0b3-medium.model", "MIT", _CITE_MP, f"{_MP0B2}, better phonons"),
    _mace("mace-mpa-0-medium", f"{_MP}/mace_mpa_0/mace-mpa-0-medium.model", "MIT", _CITE_MP, f"{_MP0} + sAlex"),
    _mace("mace-omat-0-small", f"{_MP}/mace_omat_0/mace-omat-0-small.model", _ASL, _CITE_OMAT, "materials, 89 elements, PBE+U, OMat24"),
    _mace("mace-omat-0-medium", f"{_MP}/mace_omat_0/mace-omat-0-medium.model", _ASL, _CITE_OMAT, "materials, 89 elements, PBE+U, OMat24"),
    _mace(
        "mace-matpes-pbe-0",
        f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-pbe-omat-ft.model",
        _ASL,
        _CITE_MATPES,
        "materials, 89 elements, PBE without +U, MatPES",
    ),
    _mace(
        "mace-matpes-r2scan-0",
        f"{_FOUNDATIONS}/mace_matpes_0/MACE-matpes-r2scan-omat-ft.model",
        _ASL,
        _CITE_MATPES,
        "materials, 89 elements, r2SCAN, MatPES",
    ),
    _mace("mace-off23-small", f"{_OFF}/mace_off23/MACE-OFF23_small.model", _ASL, _CITE_OFF, _OFF23),
    _mace("mace-off23-medium", f"{_OFF}/mace_off23/MACE-OFF23_medium.model", _ASL, _CITE_OFF, _OFF23),
    _mace("mace-off23-large", f"{_OFF}/mace_off23/MACE-OFF23_large.model", _ASL, _CITE_OFF, _OFF23),
    _mace(
        "mace-off24-medium",
        f"{_OFF}/mace_off24/MACE-OFF24_medium.model",
        _ASL,
        _CITE_OFF,
        "neutral organic molecules, 10 elements, wB97M-D3(BJ), SPICE 2",
    ),
)


def find(name: str) -> NamedModel:
    """The row called ``name``; a ValueError lists close names when there is none."""
    rows = {model.name: model for model in MODELS}
    if name in rows:
        return rows[name]
    close = difflib.get_close_matches(name.lower(), rows, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ValueError(f"Unknown model {name!r}: {hint}`mosso models` lists all names; a path to a model file works too.")


def cache_folder() -> Path:
    """``MOSSO_CACHE``, else ``~/.cache/mosso``."""
    return Path(os.environ.get("MOSSO_CACHE") or Path.home() / ".cache" / "mosso")


def download_url(model: NamedModel, mirror: str | None = None) -> str:
    """Where ``model`` is fetched: its own URL, or its file name under ``mirror`` (else under ``MOSSO_MODEL_MIRROR``)."""
    mirror = mirror or os.environ.get("MOSSO_MODEL_MIRROR")
    if model.url is None:
        raise ValueError(f"{model.name} ships with the package and is not downloaded.")
    url = f"{mirror.rstrip('/')}/{urllib.parse.quote(model.file_name)}" if mirror else model.url
    if urllib.parse.urlsplit(url).scheme not in ("https", "http"):
        raise ValueError(f"The mirror {mirror!r} is not an http(s) address: correct MOSSO_MODEL_MIRROR.")
    return url


def fetch(name: str, progress: Progress | None = None, mirror: str | None = None) -> Path:
    """The file of a named model: from the package, the cache, or the network.

    A file that already lies in the cache under the model's file name is used, so a machine without a network
    works once the file has been put there by hand. Where upstream states no checksum, the one first seen is
    noted beside the file (``.sha256``) and checked from then on.

    Args:
        name: a name of ``MODELS``.
        progress: called with (bytes so far, bytes in all or None).
        mirror: base URL under which files lie by their file name; overrides the environment's MOSSO_MODEL_MIRROR.

    Raises:
        FileNotFoundError: it could not be fetched, or not as a whole; the message says what to put where.
        ValueError: unknown name, or a file that is not the one expected.
    """
    model = find(name)
    if model.url is None:
        path = _EMBEDDED / model.file_name
        if not path.is_file():
            raise FileNotFoundError(f"{name} is missing from this installation ({path}): reinstall mosso.")
        return path
    path = cache_folder() / model.file_name
    if path.is_file():
        _check_cached(model, path)
        return path
    url = download_url(model, mirror)
    digest = _download(model, url, path, progress)
    _note(path).write_text(f"{digest}  {path.name}\n", encoding="ascii")
    return path


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _check_cached(model: NamedModel, path: Path) -> None:
    """The cached file is the one the table or the note of the first time names; without either, note it now."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    note = _note(path)
    noted = note.read_text(encoding="ascii", errors="replace").split()[:1] if note.is_file() else []
    expected = model.sha256 or (noted[0] if noted else None)
    if expected is None:
        note.write_text(f"{digest}  {path.name}\n", encoding="ascii")
    elif digest != expected:
        stale = path.name if model.sha256 else f"{path.name} and {note.name}"
        raise ValueError(
            f"{path} is not the file of {model.name} (sha256 {digest}, expected {expected}): delete {stale} there to fetch it again."
        )


def _download(model: NamedModel, url: str, path: Path, progress: Progress | None) -> str:
    """Fetch ``url`` into ``path``, whole and checked or not at all; returns the SHA-256."""
    remedy = f"download {url} elsewhere and put it at {path}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            digest = _transfer(url, Path(temporary), progress)
            if model.sha256 is not None and digest != model.sha256:
                found = f"sha256 {digest}, expected {model.sha256}"
                raise ValueError(f"{url} is not the file of {model.name} ({found}): it was removed, {remedy}.")
    except urllib.error.HTTPError as error:
        error.close()  # it carries the open connection
        raise FileNotFoundError(f"Cannot fetch {model.name}: {url} answered {error.code} {error.reason}; {remedy}.") from error
    except (OSError, http.client.HTTPException) as error:  # no network, refused, reset, timeout, no space
        reason = getattr(error, "reason", None) or error
        raise FileNotFoundError(f"Cannot fetch {model.name} ({reason}); {remedy}.") from error
    return digest


def _transfer(url: str, target: Path, progress: Progress | None) -> str:
    """Stream ``url`` to ``target``; fewer bytes than announced, or a web page, is an OSError."""
    digest = hashlib.sha256()
    done = 0
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, target.open("wb") as file:
        if response.headers.get_content_type() == "text/html":
            raise OSError("the server sent a web page instead of the file")
        announced = response.headers.get("Content-Length")
        total = int(announced) if announced and announced.isdigit() else None
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    if done == 0 or (total is not None and done != total):
        raise OSError(f"the transfer ended after {done} of {total or 'some'} bytes")
    return digest.hexdigest()

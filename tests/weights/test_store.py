"""Named models: the table, and fetching against a server on this machine."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mosso.weights import store
from mosso.weights.store import MODELS, NamedModel, cache_folder, download_url, fetch, find

CONTENT = bytes(range(256)) * 4096  # 1 MiB, several chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = "test-model"
FILE = "test model.model"


class Handler(BaseHTTPRequestHandler):
    """Answers by folder; counts what it is asked."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        folder = self.path.split("/")[1]
        if folder == "missing":
            self.send_error(404)
            return
        body = {"page": b"<html>log in</html>", "empty": b""}.get(folder, CONTENT)
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8" if folder == "page" else "application/octet-stream")
        if folder != "unsized":
            self.send_header("Content-Length", str(len(body) + (1000 if folder == "cut" else 0)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOSSO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MOSSO_MODEL_MIRROR", raising=False)
    return tmp_path / "cache"


def use_model(monkeypatch: pytest.MonkeyPatch, sha256: str | None = None, url: str | None = "https://models.invalid/x.model") -> None:
    row = NamedModel(NAME, "mace", url, FILE, sha256, "MIT", "nobody", "a test")
    monkeypatch.setattr(store, "MODELS", (*MODELS, row))


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_table() -> None:
    names = [model.name for model in MODELS]
    assert len(set(names)) == len(names) == 19
    assert len({model.file_name for model in MODELS}) == 19
    for model in MODELS:
        assert model.licence and model.citation and model.note and model.family in ("mace", "mosso")
        if model.url is None:
            assert model.file_name.endswith(".mosso")
        else:
            parts = urlsplit(model.url)
            assert parts.scheme == "https" and parts.netloc == "github.com" and parts.path.startswith("/ACEsuit/")
            assert model.file_name == Path(parts.path).name and model.file_name.endswith(".model")
    licences = {model.name: model.licence for model in MODELS}
    assert licences["mace-mp-0-medium"] == licences["mace-mpa-0-medium"] == licences["mosso-xtb-s"] == "MIT"
    assert all(licences[name].startswith("ASL") for name in names if "off" in name or "omat" in name or "matpes" in name)


def test_unknown_names_get_close_ones() -> None:
    with pytest.raises(ValueError, match=r"did you mean .*mace-mp-0-medium.*mosso models"):
        find("mace-mp0-medium")
    with pytest.raises(ValueError, match=r"Unknown model 'zzzzz': `mosso models`"):
        find("zzzzz")
    assert find("mace-mpa-0-medium").licence == "MIT"


def test_embedded_model_is_a_package_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_EMBEDDED", tmp_path)
    with pytest.raises(FileNotFoundError, match="reinstall mosso"):
        fetch("mosso-xtb-s")
    (tmp_path / "mosso-xtb-s.mosso").write_bytes(b"weights")
    assert fetch("mosso-xtb-s") == tmp_path / "mosso-xtb-s.mosso"


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOSSO_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("MOSSO_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "mosso"


def test_download_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOSSO_MODEL_MIRROR", raising=False)
    model = find("mace-off23-small")
    assert download_url(model) == model.url
    monkeypatch.setenv("MOSSO_MODEL_MIRROR", "https://mirror.invalid/models/")
    assert download_url(model) == "https://mirror.invalid/models/MACE-OFF23_small.model"
    assert download_url(model, "http://nearer.invalid") == "http://nearer.invalid/MACE-OFF23_small.model"
    with pytest.raises(ValueError, match="not an http"):
        download_url(model, "file:///etc")
    with pytest.raises(ValueError, match="ships with the package"):
        download_url(replace(model, url=None))


@pytest.mark.parametrize("sha256", [DIGEST, None])
def test_good_file(server: str, cache: Path, monkeypatch: pytest.MonkeyPatch, sha256: str | None) -> None:
    use_model(monkeypatch, sha256)
    seen: list[tuple[int, int | None]] = []
    path = fetch(NAME, progress=lambda done, total: seen.append((done, total)), mirror=f"{server}/good")
    assert path == cache / FILE and path.read_bytes() == CONTENT
    assert files_in(cache) == [FILE, f"{FILE}.sha256"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and len(seen) > 1
    assert Handler.asked == ["/good/test%20model.model"]
    assert fetch(NAME, mirror=f"{server}/good") == path
    assert len(Handler.asked) == 1, "a cached file is not fetched again"


def test_mirror_from_the_environment(server: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_model(monkeypatch)
    monkeypatch.setenv("MOSSO_MODEL_MIRROR", f"{server}/unsized/")
    seen: list[tuple[int, int | None]] = []
    assert fetch(NAME, lambda done, total: seen.append((done, total))).read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), None)


def test_wrong_checksum_leaves_nothing(server: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_model(monkeypatch, "0" * 64)
    with pytest.raises(ValueError, match=rf"sha256 {DIGEST}, expected 0{{64}}.*removed"):
        fetch(NAME, mirror=f"{server}/good")
    assert files_in(cache) == []


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("missing", "answered 404"),
        ("cut", f"ended after {len(CONTENT)} of {len(CONTENT) + 1000} bytes"),
        ("page", "web page"),
        ("empty", "ended after 0"),
    ],
)
def test_failed_transfers_leave_nothing(server: str, cache: Path, monkeypatch: pytest.MonkeyPatch, folder: str, message: str) -> None:
    use_model(monkeypatch)
    with pytest.raises(FileNotFoundError) as caught:
        fetch(NAME, mirror=f"{server}/{folder}")
    text = str(caught.value)
    assert message in text and "\n" not in text
    assert f"{server}/{folder}/test%20model.model" in text and str(cache / FILE) in text, "what to fetch and where to put it"
    assert files_in(cache) == []


def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    use_model(monkeypatch)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        port = http.server_port  # free again after this block
    with pytest.raises(FileNotFoundError, match=r"refused.*download http://127.*put it at"):
        fetch(NAME, mirror=f"http://127.0.0.1:{port}")
    assert files_in(cache) == []


def test_interrupt_leaves_nothing(server: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_model(monkeypatch)

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(NAME, stop, mirror=f"{server}/good")
    assert files_in(cache) == []


def test_file_put_there_by_hand_is_used_and_noted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_model(monkeypatch)
    cache.mkdir()
    (cache / FILE).write_bytes(CONTENT)
    assert fetch(NAME, mirror="http://127.0.0.1:9") == cache / FILE
    assert (cache / f"{FILE}.sha256").read_text().split()[0] == DIGEST
    (cache / FILE).write_bytes(CONTENT + b"!")
    with pytest.raises(ValueError, match=rf"expected {DIGEST}\): delete {FILE} and {FILE}.sha256"):
        fetch(NAME)
    assert (cache / FILE).exists(), "a user's file is not deleted"


def test_cached_file_with_known_checksum(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_model(monkeypatch, DIGEST)
    cache.mkdir()
    (cache / FILE).write_bytes(b"something else")
    with pytest.raises(ValueError, match=rf"expected {DIGEST}\): delete {FILE} there"):
        fetch(NAME)


def test_unusable_cache_folder(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOSSO_CACHE", str(tmp_path / "file" / "below"))
    use_model(monkeypatch)
    with pytest.raises(FileNotFoundError, match="Cannot fetch"):
        fetch(NAME, mirror=f"{server}/good")

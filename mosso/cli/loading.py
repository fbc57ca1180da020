"""A potential for a verb, with a progress bar where its file has to be fetched first."""

from typing import TYPE_CHECKING

from mosso.cli.output import Bar

if TYPE_CHECKING:
    from mosso.engine.potential import Potential


def load_potential(model: str, device: str, precision: str, head: str | None, *, progress: bool) -> "Potential":
    """``mosso.load``, after fetching a named model that is not here yet."""
    from mosso.engine.potential import find_device, load
    from mosso.precision import Precision

    find_device(device), Precision.named(precision)  # a wrong flag is told before a long download
    fetch(model, progress=progress)
    return load(model, device=device, precision=precision, head=head)


def fetch(model: str, *, progress: bool) -> None:
    """Bring the file of a named model into the cache; nothing to do for a path or a model that ships with the package."""
    from mosso.engine.potential import is_file
    from mosso.weights import store

    if is_file(model) or store.find(model).url is None:
        return
    with Bar(f"Fetching {model}", total=1, wanted=progress) as bar:

        def on_bytes(done: int, total: int | None) -> None:
            bar.move_to(done / total if total else 0, f"{done / 1e6:.0f} MB")

        store.fetch(model, progress=on_bytes)

"""``mosso models``: the named models."""

from mosso.cli import options
from mosso.cli.output import print_json, print_table


def models(as_json: options.Json = False) -> None:
    """List the named models; each is fetched when it is first used."""
    from dataclasses import asdict

    from mosso.weights.store import MODELS, cache_folder

    cache = cache_folder()
    rows = [asdict(model) | {"here": model.url is None or (cache / model.file_name).is_file()} for model in MODELS]
    if as_json:
        print_json(rows)
        return
    # the first word of a licence names it; `mosso info` spells it out
    cells = [(row["name"], row["licence"].split()[0], "yes" if row["here"] else "fetched on use", row["note"]) for row in rows]
    print_table("Named models", ("name", "licence", "here", "for"), cells)
    print(f"Cache: {cache} (MOSSO_CACHE). Citation, licence and architecture: mosso info NAME.")

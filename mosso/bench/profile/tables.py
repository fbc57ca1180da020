"""The tables of a profile, as rows of text: for the terminal and for Markdown."""

from collections.abc import Sequence
from typing import Any

from mosso.bench.markdown import markdown, number

MOST_KERNELS = 15
Document = dict[str, Any]
Row = tuple[str, ...]


def block_table(document: Document) -> tuple[Row, list[Row]]:
    """Header and rows: the blocks of a call, the whole of it, and the search for neighbours, which is no part of it."""
    *own, search = document["blocks"]
    whole = {name: sum(block[name] for block in own) for name in ("device_ms", "host_ms")} | {"block": "whole call"}
    whole |= {name: document[name] for name in ("launches", "gflops", "gbytes", "least_ms")}
    busy = whole["device_ms"]
    if document["limit_share"] is not None and busy:
        whole["limit_share"] = whole["least_ms"] / busy
    shares = [_percent(block["device_ms"] / busy if busy else 0.0) for block in own]
    rows = [(part["block"], *_times(part, document), share, *_work(part, document)) for part, share in zip(own, shares, strict=True)]
    rows += [(part["block"], *_times(part, document), "", *_work(part, document)) for part in (whole, search)]
    columns = ("device ms", "launches", "host ms") if document["device"] == "cuda" else ("in ops ms", "outside ms")
    return ("block", *columns, "share", *_work_columns(document)), rows


def _times(block: Document, document: Document) -> Row:
    launches = (known(block["launches"]),) if document["device"] == "cuda" else ()
    return known(block["device_ms"]), *launches, known(block["host_ms"])


def op_table(document: Document) -> tuple[Row, list[Row]]:
    """Header and rows: the ops of mosso.kernels, forward and backward, beside the least they can take."""
    on_device = document["device"] == "cuda"
    rows: list[Row] = [
        (op["op"], known(op["device_ms"]), *((known(op["launches"]),) if on_device else ()), *_work(op, document)) for op in document["ops"]
    ]
    return ("op", *(("device ms", "launches") if on_device else ("in ops ms",)), *_work_columns(document)), rows


def _is_small(document: Document) -> bool:
    return (document["gflops"] or 0.0) < 1.0


def _work_columns(document: Document) -> Row:
    """The limit is a column where it is known of the device at all."""
    units = ("MFLOP", "MB") if _is_small(document) else ("GFLOP", "GB")
    return (*units, "least ms", *(() if document["rates"]["measured"] else ("of the limit",)))


def _work(part: Document, document: Document) -> Row:
    scale = 1e3 if _is_small(document) else 1.0
    counted = (None if part.get(name) is None else scale * part[name] for name in ("gflops", "gbytes"))
    share = () if document["rates"]["measured"] else (_percent(part.get("limit_share")),)
    return *map(known, counted), known(part["least_ms"]), *share


def kernel_table(document: Document, most: int = MOST_KERNELS) -> tuple[Row, list[Row]]:
    """Header and rows: kernels, on the CPU ops of torch; the last holds what is left out."""
    kernels: Sequence[Document] = document["kernels"]
    rows: list[Row] = [
        (kernel["kernel"][:70], known(kernel["launches"]), known(kernel["us"]), _percent(kernel["share"])) for kernel in kernels[:most]
    ]
    if rest := kernels[most:]:
        launches, us, share = (sum(kernel[name] for kernel in rest) for name in ("launches", "us", "share"))
        rows.append((f"{len(rest)} others", known(launches), known(us), _percent(share)))
    return ("kernel" if document["device"] == "cuda" else "op of torch (without those it calls)", "calls", "us", "share"), rows


def known(value: float | None, unit: str = "") -> str:
    """Three significant digits; ``n/a`` for what is not known."""
    return "n/a" if value is None else number(value) + unit


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{share:.1%}"


def tables(document: Document) -> str:
    """All of them in Markdown, under a line that says what was profiled and what limits it."""
    title = f"{document['model']}, {document['system']}, {document['precision']}, {document['mode']}: {known(document['wall_ms'])} ms"
    made = [_markdown(*make(document)) for make in (block_table, op_table, kernel_table)]
    return "\n\n".join([title, document["verdict"], *made])


def _markdown(header: Row, rows: list[Row]) -> str:
    return markdown(header, [tuple(cell.replace("|", "\\|") for cell in row) for row in rows])

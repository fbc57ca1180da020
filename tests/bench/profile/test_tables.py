"""The tables of a profile."""

from typing import Any

from mosso.bench.profile.tables import block_table, kernel_table, op_table, tables

WORK = {"gflops": 2.0, "gbytes": 0.5, "least_ms": 0.3}
NONE = dict.fromkeys(("gflops", "gbytes", "least_ms", "limit_share"))


def block(name: str, device_ms: float, launches: float, **work: Any) -> dict[str, Any]:
    return {"block": name, "device_ms": device_ms, "host_ms": 0.1, "launches": launches} | NONE | work


DOCUMENT: dict[str, Any] = {
    "model": "m",
    "system": "s",
    "precision": "fp32",
    "mode": "captured",
    "device": "cuda",
    "verdict": "compute-bound: so it is",
    "wall_ms": 1.0,
    "limit_share": 0.3,
    "launches": 14.0,
    **WORK,
    "rates": {"measured": False},
    "blocks": [block("product", 0.6, 8, **WORK, limit_share=0.5), block("other", 0.2, 6), block("neighbour list", 0.4, 3)],
    "ops": [
        {"op": "path_linear", "device_ms": 0.6, "launches": 8.0, **WORK, "limit_share": 0.5},
        {"op": "other", "device_ms": 0.2, "launches": 6.0, **NONE},
    ],
    "kernels": [{"kernel": f"kernel<{i}|>", "launches": i, "us": 100.0 / i, "share": 0.5 / i} for i in (1, 2, 4)],
}


def test_the_search_is_no_part_of_the_whole() -> None:
    header, rows = block_table(DOCUMENT)
    assert header == ("block", "device ms", "launches", "host ms", "share", "GFLOP", "GB", "least ms", "of the limit")
    assert rows[0] == ("product", "0.6", "8", "0.1", "75.0%", "2", "0.5", "0.3", "50.0%")
    assert rows[1][-4:] == ("n/a",) * 4
    assert rows[2] == ("whole call", "0.8", "14", "0.2", "", "2", "0.5", "0.3", "37.5%")
    assert rows[3] == ("neighbour list", "0.4", "3", "0.1", "", *["n/a"] * 4)


def test_a_device_without_known_limits_has_no_share_of_them() -> None:
    unknown = DOCUMENT | {"rates": {"measured": True}, "limit_share": None, "device": "cpu"}
    header, rows = block_table(unknown)
    assert header == ("block", "in ops ms", "outside ms", "share", "GFLOP", "GB", "least ms")
    assert all(len(row) == len(header) for row in rows)
    header, rows = op_table(unknown)
    assert header == ("op", "in ops ms", "GFLOP", "GB", "least ms") and rows[0] == ("path_linear", "0.6", "2", "0.5", "0.3")


def test_little_work_has_smaller_units() -> None:
    header, rows = op_table(DOCUMENT | {"gflops": 0.5})
    assert header == ("op", "device ms", "launches", "MFLOP", "MB", "least ms", "of the limit")
    assert rows == [("path_linear", "0.6", "8", "2000", "500", "0.3", "50.0%"), ("other", "0.2", "6", *["n/a"] * 4)]


def test_the_rest_is_summed() -> None:
    _, rows = kernel_table(DOCUMENT, most=1)
    assert rows == [("kernel<1|>", "1", "100", "50.0%"), ("2 others", "6", "75", "37.5%")]


def test_markdown_keeps_its_columns() -> None:
    text = tables(DOCUMENT)
    assert text.startswith("m, s, fp32, captured: 1 ms\n\ncompute-bound: so it is\n\n| block |")
    assert "| kernel<1\\|> | 1 | 100 | 50.0% |" in text

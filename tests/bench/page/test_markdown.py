"""Rows as Markdown."""

from bench.page import made_up

from mosso.bench.page.markdown import number, short, tables
from mosso.bench.page.results import Results
from mosso.bench.rows import Hardware, Row


def lines(*rows: Row) -> list[str]:
    return tables(Results({"rows": list(rows)}, [])).splitlines()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_ours_beside_the_fastest_peer() -> None:
    peer = made_up.row(package="alpha", backend="fused", ms=4.0, ms_low=3.9, ms_high=4.1, rounds=None, error_forces=2e-6)
    text = lines(made_up.row(rounds=None), peer, made_up.row(package="alpha", backend="plain", ms=9.0))
    row = dict(zip(cells(text[0]), cells(text[2]), strict=True))
    assert row["mosso, ms"] == "1.00 (0.990 to 1.01)"
    assert row["fastest peer, ms"] == "4.00 (3.90 to 4.10)"
    assert row["peer"] == "alpha, fused"
    assert row["mosso is"] == "4.00 (3.89 to 4.11) times faster"
    assert row["force error, mosso / peer (eV/A)"].startswith("3.0e-07 against fp64 of mosso, reference / 2.0e-06")
    assert row["precision"] == "fp32, TF32 off"


def test_where_we_lose_it_says_so() -> None:
    text = lines(made_up.row(ms=2.0, ms_low=1.9, ms_high=2.1, rounds=None), made_up.row(package="alpha", rounds=None))
    assert "**2.00 (1.90 to 2.10) times slower**" in text[2]


def test_times_aimed_at_stand_behind_ours() -> None:
    aimed = {"model": "mace-mp0-medium", "system": "C1000", "task": "stress"}
    text = lines(made_up.row(**aimed), made_up.row(**aimed, package="alpha", ms=9.0), made_up.row(**aimed | {"task": "forces"}))
    assert [dict(zip(cells(text[0]), cells(line), strict=True))["must / aim, ms"] for line in text[2:4]] == ["4 / 1.6", ""]
    assert "must" not in lines(made_up.row(**aimed, precision="tf32"))[0]
    assert "must" not in lines(made_up.row())[0]


def short_lines(*rows: Row) -> list[list[str]]:
    return [cells(line) for line in short(Results({"rows": list(rows)}, [])).splitlines()[2:-2]]


def test_a_short_table_has_what_both_did() -> None:
    both = {task: (made_up.row(task=task), made_up.row(task=task, package="alpha", ms=9.0)) for task in ("forces", "stress", "md")}
    alone = made_up.row(system="C8"), made_up.row(system="W24", package="alpha")
    found = short_lines(*(row for pair in both.values() for row in pair), *alone)
    assert sorted(line[1:6] for line in found) == [
        ["Cu64", "E+F", "1.00", "9.00", "alpha, captured"],
        ["Cu64", "E+F+S", "1.00", "9.00", "alpha, captured"],
        ["Cu64", "MD step", "1.00", "9.00", "alpha, captured"],
    ]


def test_a_short_table_says_where_we_lose() -> None:
    slow = made_up.row(ms=20.0, ms_low=19.8, ms_high=20.2)
    assert short_lines(slow, made_up.row(package="alpha"))[0][-1].startswith("**20.0 (")
    refused = made_up.without_a_time(made_up.row(), "refused", "forces off")
    assert short_lines(refused, made_up.row(package="alpha"))[0][3:] == ["n/a", "1.00", "alpha, captured", "**no time: refused**"]


def test_what_is_within_chance_is_no_difference() -> None:
    text = lines(made_up.row(ms=1.0, ms_low=0.9, ms_high=1.1), made_up.row(package="alpha", ms=1.05, ms_low=0.95, ms_high=1.15))
    assert "no difference" in text[2]
    assert "no interval" in lines(made_up.row(ms_low=None, ms_high=None), made_up.row(package="alpha"))[2]


def test_one_side_alone() -> None:
    text = lines(made_up.row(package="alpha"), made_up.row(model="other"))
    assert cells(text[2])[6:10] == ["n/a", "1.00 (0.990 to 1.01)", "alpha, captured", "n/a"]
    assert cells(text[3])[7:9] == ["n/a", "none"]


def test_rows_without_a_time_and_their_reasons() -> None:
    refused = made_up.without_a_time(made_up.row(package="gamma"), "refused", "force error | beyond", error_forces=0.02)
    text = lines(made_up.row(), refused)
    assert "Without a time:" in text
    assert text[-1].endswith("refused: force error \\| beyond; force error 2.0e-02 eV/A |")
    assert not any("gamma" in line for line in text[:4])


def test_rows_of_one_reason_share_a_line() -> None:
    some = [made_up.row(package="gamma", system=system, task=task) for system in ("C8", "W24") for task in ("forces", "md")]
    text = lines(*(made_up.without_a_time(one, "unsupported", "no such thing") for one in some))
    assert cells(text[-1])[3:] == ["C8, W24", "E+F; MD step", "unsupported: no such thing"]
    assert text[-2].startswith("| --- ")


def test_the_largest_system_and_the_time_to_start() -> None:
    common = {"ms": None, "start_s": 3.0, "load_s": 1.0, "first_call_s": 0.5}
    text = lines(made_up.row(**common, task="largest", atoms=120_000), made_up.row(**common, task="startup", again_s=1.25))
    assert cells(text[-1]) == ["made-up-medium", "mosso, captured", "fp32, TF32 off", "120,000", "4.50", "1.25"]


def test_where_and_when_it_was_measured() -> None:
    note = " ".join(lines(made_up.row(), made_up.row(task="stress", started="2026-11-23T00:00:00Z")))
    assert "on Made-up GPU; 2026-11-21 to 2026-11-23; mosso at 0123456789." in note
    cpu = made_up.row(hardware=Hardware(device="cpu", cpu="Made-up CPU", threads=2))
    assert "on Made-up CPU (2 threads)" in " ".join(lines(cpu))


def test_numbers() -> None:
    assert [number(x) for x in (None, 0.0, 1e-5, 0.25, 12.34, 99.0, 1234.5)] == ["n/a", "0.00", "1.0e-05", "0.250", "12.3", "99.0", "1,234"]

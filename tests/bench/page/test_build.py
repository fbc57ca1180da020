"""The page as text: whole, self-contained, with data that cannot break out of it."""

import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from bench.page import made_up

from mosso.bench.page.build import LIBRARIES, SCRIPTS, batched, columns, document, embedded, html, series
from mosso.bench.page.results import Profile, Results
from mosso.bench.rows import Row

FOLDER = files("mosso.bench.page")


class Outline(HTMLParser):
    """Elements with their attributes, ids, and what the elements that hold raw text hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in self.raw:
            self.raw[tag].append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem in self.raw:
            self.raw[self.cdata_elem][-1] += data

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]


def of(*rows: Row, label: str = "rows") -> Results:
    return Results({label: list(rows)}, [])


def data_of(page: str) -> dict:
    return json.loads(Outline(page).raw["script"][0])


@pytest.fixture(scope="module")
def page() -> str:
    return html(of(made_up.row(), made_up.row(package="alpha", ms=3.0)))


def test_nothing_is_loaded(page: str) -> None:
    for tag, attributes in Outline(page).elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
        assert not {"src", "srcset", "action", "background"} & set(attributes)
        assert str(attributes.get("href", "#")).startswith("#")
    assert "@import" not in page
    assert "url(" not in "".join(Outline(page).raw["style"])
    policy = next(a["content"] for tag, a in Outline(page).elements if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")


def test_every_place_is_filled_and_every_id_is_one(page: str) -> None:
    outline = Outline(page)
    assert not re.search(r"\{\{(style|libraries|scripts|data)\}\}", page)
    assert len(outline.ids) == len(set(outline.ids))
    scripts = "".join(FOLDER.joinpath(name).read_text() for name in SCRIPTS)
    asked = set(re.findall(r'byId\("([\w-]+)"\)', scripts)) | set(re.findall(r'target\("([\w-]+)"\)', scripts))
    made = set(re.findall(r'id: "([\w-]+)"', scripts))
    assert asked <= set(outline.ids) | made, asked - set(outline.ids) - made


def test_labels_and_names_belong_to_something(page: str) -> None:
    outline = Outline(page)
    for _, attributes in outline.elements:
        for name in ("aria-labelledby", "for"):
            assert attributes.get(name) is None or attributes[name] in [*outline.ids, "details-title"]  # made when details open
    assert {"lang": "en"} in [attributes for tag, attributes in outline.elements if tag == "html"]


@pytest.mark.parametrize("evil", ["</script><script>alert(1)</script>", "<!-- <script>", "]]>", "\u2028 {{data}} &lt; \\u003c"])
def test_no_string_ends_the_data(evil: str) -> None:
    text = html(of(made_up.row(model=evil, backend=evil), label=evil))
    outline = Outline(text)
    assert len(outline.raw["script"]) == 3
    assert data_of(text)["rows"]["model"]["each" if "each" in data_of(text)["rows"]["model"] else "of"] == [evil]
    assert data_of(text)["sets"] == [evil]


def test_embedded_json_is_still_json() -> None:
    value = {"</a>": ["<", ">", "&", "\u2028\u2029", 1.5, None]}
    assert json.loads(embedded(value)) == value
    assert not set(embedded(value)) & set("<>\u2028\u2029")


def test_rows_survive_the_columns() -> None:
    entries = [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}, {"a": 3, "b": "x", "c": [1.0, 2.0]}, {"a": 4, "b": None}]
    found = columns(entries)
    assert found["b"] == {"of": ["x", None], "at": [0, 0, 0, 1]}
    assert found["a"] == {"each": [1, 2, 3, 4]}
    unfolded = {
        name: column["each"] if "each" in column else [column["of"][place] for place in column["at"]] for name, column in found.items()
    }
    assert unfolded["c"] == [None, None, [1.0, 2.0], None]
    assert columns([{"a": None}]) == {}


def test_a_row_that_is_not_ok_brings_no_time() -> None:
    whole = made_up.row(status="refused", reason="force error beyond fp32/1", ms=12.5, atoms_per_s=5120.0)
    found = document(of(whole))["rows"]
    for name in ("ms", "ms_p5", "ms_p95", "ms_low", "ms_high", "atoms_per_s", "ns_per_day", "first_call_s"):
        assert name not in found
    assert found["reason"]["each"] == ["force error beyond fp32/1"]
    assert found["error_forces"]["each"] == [3e-7]


def test_contests_refer_to_rows_of_the_same_model() -> None:
    ours, peer, slow = (
        made_up.row(ms=1.0),
        made_up.row(package="alpha", ms=5.0, ms_low=4.9, ms_high=5.1),
        made_up.row(package="beta", ms=9.0),
    )
    alone = made_up.row(model="other", package="alpha")
    contests = document(of(ours, slow, peer, alone))["contests"][""]
    assert contests[0]["ours"] == 0
    assert contests[0]["peer"] == 2
    assert contests[0]["ratio"] == pytest.approx(5.0)
    assert contests[0]["verdict"] == "faster"
    assert contests[1] == {"peer": 3}


def test_batches_meet_their_single_structure() -> None:
    one, many = made_up.row(ms=2.0, atoms=64), made_up.row(ms=8.0, atoms=1024, batch=16)
    others = made_up.row(atoms=960, batch=15, system="mixed"), made_up.row(atoms=1024, batch=16, precision="fp64")
    assert batched([one, many, *others]) == [(one, many)]
    assert document(of(one, many))["batched"][0]["ratio"] == pytest.approx(16 * 2 / 8)


@pytest.mark.parametrize(
    ("system", "name"), [("W192", "W"), ("chain25", "chain"), ("Cu64", "Cu"), ("mixed", "mixed"), ("64", "64"), ("my-box-2", "my-box")]
)
def test_systems_of_a_series(system: str, name: str) -> None:
    assert series(system) == name


def test_numbers_of_others_are_those_of_the_issue() -> None:
    published = document(of(made_up.row()))["published"]
    first = published["rows"][0]
    assert (first["model"], first["ms"], first["ms_batch16"], first["atoms_per_s"], first["memory_MB"]) == (
        "NequIP-OAM-S",
        29.3,
        29.9,
        34247,
        531,
    )
    for row in published["rows"]:
        if "atoms_per_s" in row:
            assert row["atoms_per_s"] == pytest.approx(16 * 64 / row["ms_batch16"] * 1e3, rel=0.02)


def test_profiles_are_on_it() -> None:
    profiles = document(Results({"rows": [made_up.row()]}, [Profile.model_validate(made_up.PROFILE)]))["profiles"]
    assert [block["block"] for block in profiles[0]["blocks"]][:2] == ["embedding", "interaction 1"]
    assert profiles[0]["kernels"][0]["kernel"] == "gemm<float, 64, 64>"


def test_the_library_is_what_it_says_it_is() -> None:
    table = FOLDER.joinpath("vendor/README.md").read_text()
    for library, licence in LIBRARIES:
        name = library.removeprefix("vendor/")
        found = hashlib.sha256(FOLDER.joinpath(library).read_bytes()).hexdigest()
        assert re.search(rf"{re.escape(name)} .*{found}", table), name
        assert "Permission to use, copy, modify" in FOLDER.joinpath(licence).read_text()


def test_it_is_small(page: str) -> None:
    assert len(page.encode()) < 620_000
    many = html(of(*(made_up.row(ms=1.0 + 0.001 * i, model=f"m{i % 7}", system=f"W{i}") for i in range(400))))
    assert (len(many) - len(page)) / 400 < 600


def test_scripts_are_short() -> None:
    for name in SCRIPTS:
        lines = FOLDER.joinpath(name).read_text().splitlines()
        assert len(lines) <= 300, name
    assert {path.name for path in Path(str(FOLDER)).glob("*.js")} == set(SCRIPTS)

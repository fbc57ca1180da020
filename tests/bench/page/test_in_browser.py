"""The page in a headless Chromium: quiet, without network, filtered, sorted, by mouse and by keyboard, wide and narrow, light and dark."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from bench.page import made_up
from bench.page.browser import Browser

from mosso.bench.page.results import Results

Show = Callable[..., Browser]
SECTIONS = ("contests", "ranking", "errors", "pareto", "scaling", "batched", "limits", "profiles", "compare")
# Texts of charts that reach out of the page.
TEXTS_OUTSIDE = """[...document.querySelectorAll(".chart svg text")].filter((text) => {
  const box = text.getBoundingClientRect();
  return box.width && (box.left < -1 || box.right > document.documentElement.clientWidth + 1);
}).map((text) => text.textContent)"""


def texts(browser: Browser, selector: str) -> list[str]:
    """What the elements say."""
    return browser.run(f"[...document.querySelectorAll({selector!r})].map((element) => element.textContent)")


def count(browser: Browser, selector: str) -> int:
    return browser.run(f"document.querySelectorAll({selector!r}).length")


def cells(browser: Browser, column: int) -> list[str]:
    """A column of the table of rows, from 1."""
    return texts(browser, f"#rows tbody tr > :nth-child({column})")


def test_it_opens_quietly_and_asks_for_nothing(show: Show, whole_page: Path) -> None:
    browser = show(whole_page)
    assert browser.complaints == []
    assert [url for url in browser.requests if url != whole_page.resolve().as_uri() and url != "about:blank"] == []
    for section in SECTIONS:
        assert count(browser, f"#{section} .chart svg text") > 3, section


def test_names_of_lines_that_stop_early_do_not_cover_each_other(show: Show) -> None:
    """Two that end near each other in time, though not in size."""
    last = {("mosso", "captured"): (24000, 16.0), ("alpha", "plain"): (3000, 172.0), ("alpha", "fused"): (5184, 169.0)}
    rows = [
        made_up.row(package=package, backend=backend, system=f"W{atoms}", atoms=atoms, ms=ms, ms_low=ms, ms_high=ms)
        for (package, backend), (most, slowest) in last.items()
        for atoms, ms in ((192, slowest / 9), (648, slowest / 4), (most, slowest))
    ]
    browser = show(Results({"rows": rows}, []))
    boxes = browser.run("""[...document.querySelectorAll("#scaling svg text")].filter((text) => text.textContent.startsWith("alpha"))
      .map((text) => text.getBoundingClientRect()).map((box) => [box.left, box.right, box.top, box.bottom])""")
    (left, right, top, bottom), (other_left, other_right, other_top, other_bottom) = boxes
    assert left < other_right and other_left < right, "side by side, so that only their height keeps them apart"
    assert bottom <= other_top + 2 or other_bottom <= top + 2


def test_charts_show_what_the_rows_say(show: Show) -> None:
    rows = [made_up.row(ms=2.0, ms_low=1.9, ms_high=2.1, rounds=None), made_up.row(package="alpha", backend="plain", ms=1.0, rounds=None)]
    browser = show(Results({"rows": rows}, []))
    assert "2.00× slower (1.90 to 2.10)" in " ".join(texts(browser, "#contests svg text"))
    assert "a peer is faster in 1" in texts(browser, "#contests .told")[0]
    numbers = texts(browser, "#ranking svg text")
    assert numbers.index("1.00") < numbers.index("2.00")


def test_a_refused_time_is_shown_nowhere_and_its_reason_is(show: Show) -> None:
    refused = made_up.row(package="alpha", status="refused", reason="force error 0.02 eV/A is beyond fp32/1", ms=777.25, error_forces=0.02)
    browser = show(Results({"rows": [made_up.row(), refused]}, []))
    assert "777" not in browser.run("document.body.innerText")
    assert "alpha" not in " ".join(texts(browser, "svg text"))
    assert "beyond fp32/1" in texts(browser, "#ranking details")[0]
    line = texts(browser, "#rows tbody tr")[1]
    assert "refused: force error 0.02 eV/A is beyond fp32/1" in line
    assert "no time" in line


def test_filters_narrow_charts_and_table_and_live_in_the_address(show: Show, whole_page: Path) -> None:
    browser = show(whole_page)
    everything = browser.run("data.rows.length")
    browser.click(".filter[data-name=model] summary")
    browser.click("input[name=model][value='made-up-small']")
    browser.wait("location.hash.includes('model=made-up-small')")
    browser.wait("document.querySelector('.count').textContent.startsWith('780 ')")
    assert everything > 780
    assert set(cells(browser, 1)) == {"made-up-small"}
    assert "made-up-medium" not in " ".join(texts(browser, "#contests svg text, #scaling figcaption, #ranking svg text"))
    browser.click(".filters .reset")
    browser.wait(f"document.querySelector('.count').textContent.startsWith('{everything:,}')")


@pytest.mark.parametrize("name", ["model", "system", "precision", "gpu"])
def test_what_everybody_filters_by_is_always_offered(show: Show, name: str) -> None:
    browser = show(Results({"one": [made_up.row()]}, []))
    assert count(browser, f".filter[data-name={name}] input") == 1


def test_a_link_brings_its_choices_back(show: Show, whole_page: Path) -> None:
    browser = show(whole_page, "system=W192&precision=fp64&sort=-ms&theme=dark&error=error_energy")
    assert set(cells(browser, 4)) == {"W192"}
    assert browser.run("document.querySelector('#error').value") == "error_energy"
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"


def test_the_table_sorts_by_key(show: Show, whole_page: Path) -> None:
    browser = show(whole_page, "model=made-up-small&precision=fp32&task=forces")
    browser.run("document.querySelector('th[data-column=ms] button').focus()")
    for key, order, state in (("Enter", "ascending", False), (" ", "descending", True)):
        browser.press(key)
        browser.wait(f"document.querySelector('th[data-column=ms]').getAttribute('aria-sort') === '{order}'")
        times = [float(cell.split()[0]) for cell in cells(browser, 9) if cell != "no time"]
        assert times == sorted(times, reverse=state)
        assert cells(browser, 9)[-1] != "no time" or cells(browser, 9)[0] != "no time"
    assert browser.run("document.activeElement.closest('th').dataset.column") == "ms"


def test_everything_is_reached_by_the_tab_key_and_seen_there(show: Show) -> None:
    browser = show(Results({"a": made_up.rows()[:6], "b": made_up.rows(1)[:6]}, []))
    browser.run("document.body.focus()")
    seen = []
    for _ in range(400):
        browser.press("Tab")
        where = browser.run(
            "(() => { const e = document.activeElement, s = getComputedStyle(e);"
            "return [e.id || e.dataset.name || e.closest('[id]')?.id || e.tagName, e.tagName, s.outlineStyle !== 'none']; })()"
        )
        if where[1] == "BODY":
            break
        seen.append(where)
    assert all(visible for _, _, visible in seen), [where for where in seen if not where[2]]
    names = [name for name, _, _ in seen]
    for name in ("theme", "filters", "chart_task", "view", "error", "before", "after", "rows", "published-table", "environment"):
        assert name in names, name
    first = [names.index(name) for name in ("theme", "filters", "view", "error", "rows", "environment")]
    assert first == sorted(first)


def test_details_open_and_close_by_key(show: Show, whole_page: Path) -> None:
    browser = show(whole_page)
    browser.run("document.querySelector('#rows tbody button').focus()")
    browser.press("Enter")
    browser.wait("document.querySelector('#details').open")
    assert "mosso bench --models made-up-medium" in texts(browser, "#details code")[0]
    assert "torch 2.11.0" in texts(browser, "#details")[0]
    browser.press("Escape")
    browser.wait("!document.querySelector('#details').open")


def test_names_cannot_become_markup(show: Show) -> None:
    evil = "</script><img src=x onerror=alert(1)><!--"
    browser = show(Results({evil: [made_up.row(model=evil, backend=evil), made_up.row(package=evil, model=evil)]}, []))
    assert browser.complaints == []
    assert count(browser, "img") == 0
    assert evil in cells(browser, 1)


def test_the_pareto_front_is_of_exact_checkpoints(show: Show) -> None:
    rows = [
        made_up.row(model="mace-mpa-0-medium", weights="official", atoms_per_s=1e4),
        made_up.row(model="mace-mp-0-medium", weights="official", atoms_per_s=2e4),
        made_up.row(model="mace-mp-0-medium", weights="official", package="alpha", atoms_per_s=1e3),
        made_up.row(model="nequip-oam-l", weights="random", package="beta", atoms_per_s=9e4),
    ]
    browser = show(Results({"rows": rows}, []))
    shown = " ".join(texts(browser, "#pareto svg text"))
    assert "mace-mpa-0-medium" in shown
    assert "nequip-oam-l" not in shown
    browser.click("#shapes")
    browser.wait("location.hash.includes('shapes=1')")
    browser.wait("document.querySelector('#pareto .chart').textContent.includes('nequip-oam-l')")
    front = browser.run(
        "front(data.rows.filter((row) => row.cps).map((row) => ({ row, x: row.atoms_per_s, y: row.cps }))).map((e) => e.row.model)"
    )
    assert front == ["mace-mp-0-medium", "mace-mpa-0-medium"]


def test_numbers_of_others_are_labelled_and_asked_for(show: Show, whole_page: Path) -> None:
    browser = show(whole_page)
    assert "published by others" not in " ".join(texts(browser, "#ranking svg text"))
    assert "29.3" in texts(browser, "#published-table")[0]
    browser.click("#others")
    browser.wait("document.querySelector('#ranking .chart').textContent.includes('NequIP-OAM-S · published by others')")


def test_two_sets_are_compared(show: Show, whole_page: Path) -> None:
    browser = show(whole_page)
    note = texts(browser, "#compare-note")[0]
    assert " faster" in note
    assert " no difference" in note
    browser.run("choose('after', 'before')")
    browser.wait("document.querySelector('#compare-note').textContent.includes('Choose two different sets')")


@pytest.mark.parametrize(
    "rows", [[made_up.row()], [made_up.without_a_time(made_up.row(), "error", "out of memory")]], ids=["one row", "no time"]
)
def test_little_is_shown_with_words(show: Show, rows: list) -> None:
    browser = show(Results({"few": rows}, []))
    assert browser.complaints == []
    assert count(browser, "#scaling .empty") == 1
    assert browser.run("['contests', 'batched', 'limits', 'profiles', 'compare'].every((id) => document.getElementById(id).hidden)")
    assert count(browser, "#rows tbody tr") == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(show: Show, whole_page: Path, tmp_path: Path, scheme: str) -> None:
    browser = show(whole_page)
    browser.resize(390, mobile=True)
    browser.prefer(scheme)
    browser.open(whole_page)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.run(TEXTS_OUTSIDE) == []
    browser.click(".filter[data-name=model] summary")
    browser.click("input[name=model][value='made-up-medium']")
    browser.wait("location.hash.includes('made-up-medium')")
    browser.photograph(tmp_path / "phone.png", scale=0.5)
    size = struct.unpack(">II", (tmp_path / "phone.png").read_bytes()[16:24])
    assert size[0] == 195
    assert size[1] > 2000
    browser.prefer("light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(show: Show, whole_page: Path, scheme: str) -> None:
    browser = show(whole_page, f"theme={scheme}")
    pairs = browser.run(
        """["--ink", "--quiet", "--good", "--bad", ...d3.range(7).map((i) => `--c${i}`)].map((name) => {
          const of = (value) => { const e = document.createElement("i"); e.style.color = value; document.body.append(e);
            const rgb = getComputedStyle(e).color.match(/[\\d.]+/g).slice(0, 3).map(Number); e.remove(); return rgb; };
          return [name, of(`var(${name})`), of("var(--paper)")]; })"""
    )
    for name, ink, paper in pairs:
        assert contrast(ink, paper) >= (4.5 if name in ("--ink", "--quiet", "--good", "--bad") else 3.0), name


def contrast(one: list[float], other: list[float]) -> float:
    """Ratio of relative luminances (WCAG 2)."""

    def luminance(rgb: list[float]) -> float:
        linear = [c / 3294.6 if c <= 10.31 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_box_tells_all_of_a_mark(show: Show, scheme: str) -> None:
    browser = show(Results({"one": [made_up.row()]}, []), f"theme={scheme}")
    mark = "document.querySelector('#errors svg[role=img] g[aria-label=dot] path')"
    browser.run(f"{mark}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    x, y = browser.run(f"(() => {{ const b = {mark}.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x - 2, y=y)
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    browser.wait("document.querySelector('#errors [aria-label=tip] text')?.textContent.includes('force error')")
    colors = browser.run(
        """["path", "text"].map((name) => getComputedStyle(document.querySelector(`#errors [aria-label=tip] ${name}`)).fill
           .match(/[\\d.]+/g).slice(0, 3).map(Number))"""
    )
    assert contrast(*colors) > 4.5

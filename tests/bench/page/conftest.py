"""One browser for all tests of the page, and pages made of invented rows."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench.page import made_up
from bench.page.browser import Browser, executable

from mosso.bench.page.build import html
from mosso.bench.page.results import Profile, Results


def results() -> Results:
    """Two whole sets and a profile."""
    sets = {"before": made_up.rows(seed=0), "after": made_up.rows(seed=1, faster=1.2, commit="fedcba9876543210")}
    return Results(sets, [Profile.model_validate(made_up.PROFILE)])


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A tab without network."""
    if executable() is None:
        pytest.skip("needs a Chromium on the PATH to open the page with")
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="session")
def whole_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two whole sets and a profile."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html(results()), encoding="utf-8")
    return path


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Callable[[Path | Results, str], Browser]:
    """Open a page, or that of results, at the width of a desk; what stands after ``#`` as second argument."""

    def open_page(page: Path | Results, choices: str = "") -> Browser:
        if isinstance(page, Results):
            path = tmp_path / "page.html"
            path.write_text(html(page), encoding="utf-8")
        else:
            path = page
        browser.resize(1280)
        browser.complaints.clear()
        browser.requests.clear()
        browser.open(path, choices)
        return browser

    return open_page

"""autoseg report, in a browser: what it shows, and that it loads nothing."""

import shutil
from itertools import pairwise

import pytest

from autoseg.artifacts.base import read
from autoseg.artifacts.evaluation import Evaluation
from autoseg.artifacts.plan import Plan
from autoseg.evaluate.summary import mean_metrics
from autoseg.layout import Workspace


@pytest.fixture(scope="module")
def reported(tmp_path_factory, trained, autoseg):
    """A workspace of two trained folds, and its page, with a comparison of the folds' scores with themselves."""
    root = tmp_path_factory.mktemp("reported") / "work & <space>"
    shutil.copytree(trained, root, ignore=shutil.ignore_patterns("preprocessed", "checkpoint*"))
    models = root / "models" / "3d_fullres"
    compared = root / "comparison.json"
    autoseg("compare", models, models, "--json", compared)
    done = autoseg("report", root, "--comparison", compared)
    assert done.stdout == f"-> {root / 'report' / 'index.html'}\n"
    return root


@pytest.fixture
def opened(browser, reported):
    """Callable: the page in a window of some width and scheme, and all that was asked of the network or logged."""
    contexts = []

    def load(width=1200, scheme="light", root=reported):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        tab = context.new_page()
        asked, said = [], []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        address = Workspace(root).report.as_uri()
        tab.goto(address)
        assert [url for url in asked if not url.startswith("data:image/png;base64,")] == [address]
        assert said == []
        return tab

    yield load
    for context in contexts:
        context.close()


def test_the_table_says_what_evaluation_json_says(opened, reported):
    tab = opened()
    space = Workspace(reported)
    evaluations = [read(space.fold("3d_fullres", fold).evaluation, Evaluation) for fold in (0, 1)]
    cases = [scores for evaluation in evaluations for scores in evaluation.cases.values()]
    expected = {"all labels": [mean_metrics(list(scores.values()))["dice"] for scores in cases]}
    expected |= {label: [scores[label].dice for scores in cases] for label in evaluations[0].labels}
    lines = tab.locator("#scores tbody tr")
    assert lines.count() == len(expected)
    for i, (name, dice) in enumerate(expected.items()):
        line = lines.nth(i)
        assert line.locator("th").inner_text() == name
        known = [value for value in dice if value is not None]
        shown = line.locator("td").first.locator("data")
        assert float(shown.get_attribute("value")) == pytest.approx(sum(known) / len(known))
        assert shown.inner_text() == f"{sum(known) / len(known):.3f}"
        counts = [int(each.get_attribute("value")) for each in line.locator(".counts data").all()]
        summaries = [evaluation.summary.labels.get(name) for evaluation in evaluations]
        if all(summaries):
            missed, alarms = (sum(getattr(each, key) for each in summaries) for key in ("n_missed", "n_false_alarms"))
            assert counts[:3] == [len(cases), missed, alarms]
    assert tab.locator("#mean-dice").inner_text() == lines.first.locator("td data").first.inner_text()


def test_the_page_is_a_document_that_everybody_can_read(opened):
    tab = opened()
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert tab.title() == "work & <space>: segmentation report"
    assert tab.locator("h1").all_inner_texts() == ["work & <space>"]
    headings = tab.locator("h2").all_inner_texts()
    parts = ["Cross-validation", "Worst cases", "Training", "Dataset", "Plan", "Comparison", "Selection"]
    assert headings == [*parts, "Environment and origin"]
    levels = tab.locator("h1, h2, h3, h4").evaluate_all("all => all.map(each => Number(each.tagName[1]))")
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert tab.evaluate("document.querySelectorAll('script').length") == 0
    ids = tab.locator("[id]").evaluate_all("all => all.map(each => each.id)")
    assert len(ids) == len(set(ids))
    for link in tab.locator("nav a").all():
        assert tab.locator(link.get_attribute("href")).count() == 1
    drawings = tab.locator("svg").evaluate_all(
        "all => all.map(each => ['aria-labelledby', 'aria-describedby']"
        ".map(key => document.getElementById(each.getAttribute(key)).textContent))"
    )
    assert len(drawings) >= 6
    assert all(title and description for title, description in drawings)
    pictures = tab.locator("img")
    assert pictures.count() >= 1
    for picture in pictures.all():
        assert "voxels missed" in picture.get_attribute("alt")
        assert picture.evaluate("each => each.complete && each.naturalWidth > 100")


@pytest.mark.parametrize("width", [320, 375, 768, 1600])
def test_no_screen_is_too_narrow(opened, width):
    tab = opened(width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for summary in tab.locator("summary").all():
        summary.click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def contrast(tab, selector):
    """Of an element's text with the page, after WCAG 2.2."""
    channels = tab.evaluate(
        "selector => [getComputedStyle(document.querySelector(selector)).color,"
        " getComputedStyle(document.body).backgroundColor].map(text => text.match(/[0-9.]+/g).slice(0, 3).map(Number))",
        selector,
    )
    linear = [
        [value / 3294.6 if value <= 10.31 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in colour]
        for colour in channels
    ]
    light, dark = sorted((0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(opened, scheme, tmp_path):
    tab = opened(scheme=scheme)
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[scheme]
    for selector in ("h1", ".subject", "nav a", "td", "caption", ".estimate small", "dt", ".legend"):
        assert contrast(tab, selector) >= 4.5, selector
    picture = tab.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    assert len(picture) > 50_000


def test_paper_shows_all_in_dark_ink(opened):
    tab = opened(scheme="dark")
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator("nav").is_visible()
    # What is folded away on screens is there.
    assert tab.locator("details.reason p").first.evaluate("each => each.getBoundingClientRect().height") > 5
    assert tab.pdf(format="A4").startswith(b"%PDF")


def test_what_changed_is_said(opened, autoseg, tmp_path, reported):
    root = tmp_path / "changed"
    shutil.copytree(reported, root)
    space = Workspace(root)
    plan = read(space.plan, Plan).configurations["3d_fullres"].batch_size
    text = space.plan.read_text()
    space.plan.write_text(text.replace(f'"batch_size": {plan}', f'"batch_size": {plan + 1}'))
    label = next(iter(sorted(space.fold("3d_fullres", 0).validation.glob("*.nii.gz"))))
    label.write_bytes(label.read_bytes() + b"\0")
    space.fold("3d_fullres", 1).evaluation.write_text("{")
    assert autoseg("report", "-w", root).returncode == 0
    told = opened(root=root).locator("#notes").inner_text()
    assert f"batch_size was {plan}, is {plan + 1}" in told
    assert "3d_fullres, fold 0: predictions changed since they were scored" in told
    assert "fold_1/validation/evaluation.json can't be read" in told


def test_a_workspace_that_is_only_planned_has_a_page(opened, autoseg, tmp_path, reported):
    root = tmp_path / "planned"
    shutil.copytree(reported, root, ignore=shutil.ignore_patterns("models", "report"))
    autoseg("report", root)
    tab = opened(root=root)
    assert "Nothing is trained yet" in tab.locator("header").inner_text()
    assert tab.locator("#scores").count() == 0
    assert tab.locator("#volumes").count() == 1


def test_another_folder_is_refused_and_two_names_are_one_too_many(autoseg, tmp_path):
    done = autoseg("report", tmp_path, check=False)
    assert done.returncode == 1
    assert "this folder is not a workspace" in done.stderr
    assert not (tmp_path / "report").exists()
    assert autoseg("report", tmp_path, "-w", tmp_path, check=False).returncode == 2

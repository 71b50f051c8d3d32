"""`autoseg view` as a user has it: the command, and its page in a real browser."""

import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import imageio.v3 as imageio
import numpy as np
import pytest

from autoseg.images.io import read_image, read_label
from autoseg.view.cases import workspace_cases
from autoseg.view.server import NIIVUE

MILLISECONDS = 60_000
# Tests that run in the background of a shell, and all they start, have Ctrl-C ignored.
INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from autoseg.cli import main; main()"
)
VIEWPORT = {"width": 860, "height": 560}  # the CPU computes every pixel


@contextmanager
def viewing(*arguments):
    """The address of a running viewer, which is ended by Ctrl-C and may not complain about that."""
    command = [sys.executable, "-u", "-c", INTERRUPTIBLE, "view", "--no-browser", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            line = running.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+/[\w-]+/", line)
            assert found, line + running.stderr.read()
            yield found[0]
        finally:
            running.send_signal(signal.SIGINT)
            try:
                _, complaints = running.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                running.kill()
                raise
    assert (running.returncode, complaints) == (0, "")


@pytest.fixture
def shown(browser, scored_workspace):
    """The page on the scored workspace; errors in its console and requests to elsewhere fail the test."""
    if not NIIVUE.exists():
        pytest.skip("NiiVue is not here: make viewer fetches it, with npm")
    with viewing("-w", scored_workspace.root) as address, browser.new_context(viewport=VIEWPORT) as context:
        page = context.new_page()
        page.set_default_timeout(MILLISECONDS)
        complaints, elsewhere = [], []
        page.on("console", lambda message: _is_complaint(message) and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: _is_elsewhere(request.url, address) and elsewhere.append(request.url))
        page.goto(address)
        settle(page)
        yield page
        assert complaints == []
        assert elsewhere == []


def _is_complaint(message):
    # Of a case that can't be read the browser tells by itself; the page does, too, and `settle` notices.
    return message.type in ("error", "warning") and "status of 500" not in message.text


def _is_elsewhere(url, address):
    return not url.startswith((address, "data:", "blob:"))


def settle(page, case=None):
    """Wait until volumes are loaded, those of a case if it is named."""
    if case is not None:
        page.wait_for_function("name => document.title.startsWith(name + ' ')", arg=case)
    page.wait_for_selector("body:not([data-state=loading])")
    assert page.get_attribute("body", "data-state") == "ready", page.inner_text("#state")


def pixels(page):
    """What the canvas shows, once it no longer changes; the browser paints when it finds the time."""
    before = None
    for _ in range(50):
        page.wait_for_timeout(100)
        now = imageio.imread(page.locator("#canvas").screenshot())[..., :3].astype(int)
        if before is not None and np.array_equal(before, now):
            return now
        before = now
    pytest.fail("the canvas never comes to rest")


def tinted(picture):
    """How many pixels are of a colour, not grey."""
    return int((np.ptp(picture, axis=-1) > 40).sum())


def test_the_worst_case_is_drawn_with_both_label_maps(shown, scored_workspace):
    picture = pixels(shown)
    assert picture.std() > 10
    assert tinted(picture) > 1000
    assert shown.inner_text("#case option:checked").startswith("bad (Dice ")
    rows = shown.locator("#legend tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["left", "right"]
    for scheme in ("light", "dark"):
        shown.emulate_media(color_scheme=scheme)
        colours = shown.locator("aside").evaluate(
            "it => [getComputedStyle(it).color, getComputedStyle(it).backgroundColor]"
        )
        assert contrast(*colours) > 7, scheme
    # As numpy has it of the files: the page begins in the reference, whose voxel NiiVue counts from another corner.
    x, y, z = map(int, re.match(r"voxel \(x, y, z\) (\d+), (\d+), (\d+): ", shown.inner_text("#here")).groups())
    case = workspace_cases(scored_workspace, None, None)[0]
    value = read_image(case.images, case="bad").array_czyx[0, z, y, x]
    names = [
        ("–", "left", "right")[read_label(file, case="bad").array_zyx[z, y, x]]
        for file in (case.reference, case.predicted)
    ]
    told = f"voxel (x, y, z) {x}, {y}, {z}: {value:g}; reference: {names[0]}; prediction: {names[1]}"
    assert shown.inner_text("#here") == told
    assert names[0] != "–"


def test_next_and_previous(shown):
    first = pixels(shown)
    assert shown.is_disabled("#previous")
    shown.keyboard.press("n")
    settle(shown, "fair")
    assert not np.array_equal(first, pixels(shown))
    shown.click("#next")
    settle(shown, "good")
    assert shown.is_disabled("#next")
    assert shown.locator("#legend tr").all_inner_texts() == ["left\t100.0", "right\t100.0"]
    shown.keyboard.press("p")
    shown.keyboard.press("p")
    settle(shown, "bad")
    assert np.array_equal(first, pixels(shown))


def test_label_maps_are_switched_and_faded(shown):
    both = pixels(shown)
    shown.keyboard.press("1")
    prediction = pixels(shown)
    shown.keyboard.press("2")
    neither = pixels(shown)
    assert tinted(both) > tinted(prediction) > tinted(neither)
    shown.keyboard.press("0")
    assert np.array_equal(both, pixels(shown))
    shown.uncheck("#predicted .shown")
    reference = pixels(shown)
    shown.locator("#reference .opacity").fill("0.1")
    assert not np.array_equal(reference, pixels(shown))
    shown.locator("#reference .opacity").fill("0")
    assert np.array_equal(neither, pixels(shown))
    shown.locator("#reference .opacity").fill("0.4")
    shown.select_option("#reference .style", "outline")
    assert not np.array_equal(reference, pixels(shown))
    shown.select_option("#reference .style", "filled")
    assert np.array_equal(reference, pixels(shown))


def test_channel_window_and_view(shown):
    first = pixels(shown)
    shown.select_option("#channel", label="T2")
    settle(shown)
    second = pixels(shown)
    assert not np.array_equal(first, second)
    shown.locator("#high").fill("5000")
    shown.locator("#high").blur()
    assert pixels(shown).mean() < second.mean()
    shown.select_option("#view", label="axial")
    axial = pixels(shown)
    shown.select_option("#view", label="3D")
    assert not np.array_equal(axial, pixels(shown))


def test_a_case_that_cannot_be_shown_does_not_stop_the_next(shown, scored_workspace):
    (scored_workspace.fold("3d_fullres", 1).validation / "fair.nii.gz").write_bytes(b"damaged")
    shown.keyboard.press("n")
    shown.wait_for_selector("body[data-state=error]")
    assert "case fair" in shown.inner_text("#state")
    shown.keyboard.press("n")
    settle(shown, "good")


def contrast(one, other):
    """The ratio of two colours' luminances, as WCAG 2 has it."""

    def luminance(colour):
        parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        return float(
            np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)
        )

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def fetched(address):
    with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310
        return answer.read()


def test_the_command_serves_and_ends_with_ctrl_c(scored_workspace, tmp_path):
    (tmp_path / "niivue.js").write_text("// stands for NiiVue")
    with viewing("good", "-w", scored_workspace.root, "--niivue", tmp_path / "niivue.js") as address:
        assert b'"good"' in fetched(f"{address}cases.json")


def test_plain_folders_and_wrong_usage(scored_workspace, tmp_path, autoseg):
    (tmp_path / "niivue.js").write_text("// stands for NiiVue")
    validation = scored_workspace.fold("3d_fullres", 0).validation
    folders = ("--images", tmp_path / "raw", "--predicted", validation)
    with viewing(*folders, "--niivue", tmp_path / "niivue.js") as address:
        assert b"n+1" in fetched(f"{address}0/predicted.nii")
    for wrong in (("--predicted", validation), ("--images", validation), (*folders, "--folds", 0)):
        assert autoseg("view", *wrong, check=False).returncode == 2

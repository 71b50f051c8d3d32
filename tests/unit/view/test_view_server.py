"""The server answers who knows the address, and nobody else. No browser and no npm is needed here."""

import http.client
import json
import socket
from pathlib import Path
from threading import Thread

import pytest

from autoseg.errors import SettingError
from autoseg.view.cases import workspace_cases
from autoseg.view.server import NIIVUE_ARCHIVE, NIIVUE_VERSION, PAGE, Answers, ViewServer

SCRIPT = b"// stands for NiiVue"


@pytest.fixture
def niivue(tmp_path):
    file = tmp_path / "niivue.umd.js"
    file.write_bytes(SCRIPT)
    return file


@pytest.fixture
def server(workspace, niivue):
    with ViewServer(Answers(workspace_cases(workspace, None, None), niivue)) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(server, path, *, method="GET", host="127.0.0.1"):
    """Status, headers and body; every byte of the path goes out as it is."""
    with socket.create_connection(server.server_address, timeout=30) as connection:
        host_line = "" if host is None else f"Host: {host}\r\n"
        connection.sendall(f"{method} {path} HTTP/1.0\r\n{host_line}\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.headers, answer.read()


def test_the_page_and_its_parts(server):
    home = f"/{server.token}/"
    for name, there in (("", "index.html"), ("viewer.js", "viewer.js"), ("viewer.css", "viewer.css")):
        status, _, body = ask(server, home + name)
        assert (status, body) == (200, (PAGE / there).read_bytes())
    assert ask(server, f"{home}niivue.js")[2] == SCRIPT
    cases = json.loads(ask(server, f"{home}cases.json")[2])
    assert [case["name"] for case in cases] == ["bad", "fair", "good"]
    assert json.loads(ask(server, f"{home}2.json")[2])["name"] == "good"
    for name in ("0/image-0.nii", "0/image-1.nii", "0/reference.nii", "0/predicted.nii"):
        status, headers, body = ask(server, home + name)
        assert (status, body[344:347], int(headers["Content-Length"])) == (200, b"n+1", len(body))


def test_only_who_has_the_token(server):
    assert len(server.token) >= 43
    for path in (
        "/",
        "/cases.json",
        "//cases.json",
        f"/{server.token}",
        f"/{server.token}x/",
        f"/{server.token[:-1]}/",
        "/é/",
    ):
        status, headers, body = ask(server, path)
        assert status == 403, path
        assert server.token.encode() not in body
        assert "Set-Cookie" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", None, "[::1]", "0.0.0.0:1"]
)
def test_only_by_this_machines_own_name(server, host):
    assert ask(server, f"/{server.token}/", host=host)[0] == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST"])
def test_a_tunnel_may_end_at_another_port(server, host):
    assert ask(server, f"/{server.token}/", host=host)[0] == 200


@pytest.mark.parametrize(
    "name",
    [
        "../server.py",
        "%2e%2e/server.py",
        "/etc/passwd",
        "index.html",
        "3.json",
        "-1.json",
        "0/image-2.nii",
        "0/image-0.nii/",
        "0/image-².nii",
        "0/../0.json",
        "0/" + "9" * 5000,
    ],
)
def test_nothing_else_is_there(server, name):
    status, _, body = ask(server, f"/{server.token}/{name}")
    assert (status, body) == (404, b"there is nothing here\n")


def test_nothing_can_be_sent(server):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, headers, _ = ask(server, f"/{server.token}/", method=method)
        assert status == 501
        assert "Access-Control-Allow-Origin" not in headers


def test_every_answer_forbids_what_a_page_could_load_from_elsewhere(server):
    for path in ("/", f"/{server.token}/", f"/{server.token}/0.json"):
        _, headers, _ = ask(server, path)
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"


def test_other_machines_find_no_server(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.socket.getsockname()[0] == "127.0.0.1"
    # Another address of this very machine: a server that listens on all of them would answer.
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", server.server_address[1]))


def test_each_server_has_a_token_of_its_own(workspace, niivue):
    answers = Answers(workspace_cases(workspace, None, None), niivue)
    with ViewServer(answers) as one, ViewServer(answers) as other:
        assert one.token != other.token


def test_a_case_that_cannot_be_read_says_why(server, workspace):
    (workspace.fold("3d_fullres", 1).validation / "bad.nii.gz").write_bytes(b"damaged")
    status, _, body = ask(server, f"/{server.token}/0.json")
    assert status == 500
    assert "case bad" in json.loads(body)["error"]
    assert ask(server, f"/{server.token}/1.json")[0] == 200


def test_a_port_that_is_taken(server, workspace, niivue):
    answers = Answers(workspace_cases(workspace, None, None), niivue)
    with pytest.raises(SettingError, match="--port"):
        ViewServer(answers, server.server_address[1])


def test_without_niivue_the_error_says_what_to_do(workspace, tmp_path):
    with pytest.raises(SettingError, match=r"make viewer.*npm.*--niivue FILE") as refusal:
        Answers(workspace_cases(workspace, None, None), tmp_path / "niivue.js")
    assert refusal.value.where == str(tmp_path / "niivue.js")


def test_what_is_told_is_what_make_fetches():
    repository = Path(__file__).parents[3]
    pinned = json.loads((repository / "viewer" / "package.json").read_text())["dependencies"]["@niivue/niivue"]
    locked = json.loads((repository / "viewer" / "package-lock.json").read_text())["packages"]
    assert pinned == locked["node_modules/@niivue/niivue"]["version"] == NIIVUE_VERSION
    assert NIIVUE_ARCHIVE in (repository / "docs" / "how-to" / "view.md").read_text()

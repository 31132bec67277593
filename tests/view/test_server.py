"""The page about runs over HTTP: what it shows, to whom, and what it takes."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import made_run
import zoo
from expunge.chat.chat import Chat
from expunge.core.checks import ExpungeError
from expunge.view.server import TOKEN, Server, View


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    made_run.run(tmp_path / "npo")
    made_run.evaluation(forget_extraction_strength=0.25).save(tmp_path / "npo-records" / "evaluation.json")
    return tmp_path


@pytest.fixture
def server(runs: Path) -> Iterator[Server]:
    opened: list[Path] = []

    def open_chat(place: Path) -> tuple[Chat, str]:
        opened.append(place)
        models = {"npo": (zoo.tiny_model(), zoo.tokenizer()), "start": (zoo.tiny_model(seed=1), zoo.tokenizer())}
        return Chat(models, corpus=zoo.corpus(), max_new_tokens=4), "a note"

    view = View(runs, open_chat)
    with Server(view, 0) as serving:
        serving.opened = opened  # type: ignore[attr-defined]
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def asked(
    server: Server, path: str, *, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    content = None if body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, content, dict(headers or {}))
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def test_the_page_its_assets_and_the_state_are_served(server: Server) -> None:
    status, page, headers = asked(server, "/")
    assert status == 200 and "default-src 'none'" in str(headers["Content-Security-Policy"])
    assert server.view.token in page and "<script>" not in page
    for asset in ("/view.js", "/view.css"):
        assert asked(server, asset)[0] == 200
    state = json.loads(asked(server, "/state.json")[1])
    assert [run["name"] for run in state["runs"]] == ["npo"] and state["report"]
    assert asked(server, "/../pyproject.toml")[0] == asked(server, "/view.html.jinja")[0] == 404


def test_the_report_is_made_again_when_something_is_measured(server: Server, runs: Path) -> None:
    before = json.loads(asked(server, "/state.json")[1])["report"]
    status, page, _ = asked(server, "/report")
    assert status == 200 and "npo" in page and page == asked(server, "/report")[1]
    made_run.evaluation("xxh3:start", forget_rouge=0.5).save(runs / "begun" / "evaluation.json")
    assert json.loads(asked(server, "/state.json")[1])["report"] != before
    assert "begun" in asked(server, "/report")[1]


def test_attacks_on_an_earlier_run_of_the_same_name_do_not_stop_the_report(server: Server, runs: Path) -> None:
    old = replace(made_run.attacked(model="xxh3:before"), label="npo")
    old.save(runs / "npo-attacked")
    status, page, _ = asked(server, "/report")
    assert status == 200 and "npo-attacked/attacked.json was left out" in page


def test_without_an_evaluation_there_is_no_report(tmp_path: Path) -> None:
    view = View(tmp_path, lambda place: pytest.fail("no model is loaded"))
    assert view.state() == {"runs": [], "report": ""}
    with pytest.raises(ExpungeError, match="needs at least one evaluation"):
        view.report()


def test_a_prompt_is_answered_as_the_models_write(server: Server) -> None:
    token = {TOKEN: server.view.token}
    prompt = zoo.corpus()["forget"][0].question
    for _ in range(2):
        status, text, _ = asked(server, "/ask", body={"run": "npo", "prompt": prompt}, headers=token)
        last = json.loads(text.splitlines()[-1])
        assert status == 200 and last["known"] == zoo.corpus()["forget"][0].completion and last["note"] == "a note"
        assert [one["model"] for one in last["answers"]] == ["npo", "start"]
        assert all(0 < one["probability"] < 1 for one in last["answers"])
    assert len(server.opened) == 1  # type: ignore[attr-defined]  # the second prompt finds the models loaded


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"run": "npo", "prompt": " "}, "the prompt is empty"),
        ({"run": "none", "prompt": "?"}, "no run 'none'"),
        ({"run": "../npo", "prompt": "?"}, "no run '../npo'"),
    ],
)
def test_what_cannot_be_asked_is_told(server: Server, body: dict[str, str], said: str) -> None:
    _, text, _ = asked(server, "/ask", body=body, headers={TOKEN: server.view.token})
    assert said in json.loads(text.splitlines()[-1])["error"]


def test_other_pages_reach_nothing(server: Server) -> None:
    body = {"run": "npo", "prompt": "?"}
    assert asked(server, "/ask", body=body)[0] == asked(server, "/ask", body=body, headers={TOKEN: "guess"})[0] == 403
    elsewhere = {"Host": "example.org"}
    assert {asked(server, path, headers=elsewhere)[0] for path in ("/", "/state.json", "/report")} == {403}
    assert asked(server, "/ask", body={"run": "npo"}, headers={TOKEN: server.view.token})[0] == 400
    assert server.server_address[0] == "127.0.0.1" and not server.opened  # type: ignore[attr-defined]


def test_a_port_in_use_is_told(server: Server) -> None:
    with pytest.raises(ExpungeError, match="cannot be used"):
        Server(server.view, server.server_address[1])

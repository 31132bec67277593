"""A page about a folder of runs, served to this machine alone: what goes on, the report, and a prompt box.

It answers requests that were sent to an address of this machine's own by its name, and takes prompts from its own page
alone, so that no other page in the same browser reaches the models or the texts.
"""

import json
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from expunge.chat.chat import Chat, Exchange
from expunge.core.checks import ExpungeError
from expunge.report.baselines import beside
from expunge.report.compared_models import assign_roles, distinct, gather
from expunge.report.facts import fitting
from expunge.report.html import report
from expunge.report.templates import render
from expunge.results.attacked import load_attacked
from expunge.results.places import attacked_beside, places
from expunge.view.runs import evaluated, run_folders, runs_in

HOST = "127.0.0.1"
TOKEN = "X-Expunge-Token"
"""Header that the page sends with a prompt; another site can neither read the token nor send the header."""
LONGEST = 100_000
"""Bytes of a request."""
PAUSE = 0.1
"""Seconds between two states of an answer that is being written."""
_HERE = Path(__file__).parent
_ASSETS = {"/view.css": "text/css", "/view.js": "text/javascript"}
_POLICY = "default-src 'none'; img-src data:; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'"

OpenChat = Callable[[Path], tuple[Chat, str]]
"""From a run folder, a chat with its model and those beside it, and what a reader must know of it."""


class View:
    """What the page shows of a folder; reports are made again when what they are made of has changed."""

    def __init__(self, folder: Path, open_chat: OpenChat) -> None:
        self.folder, self.open_chat, self.token = folder, open_chat, secrets.token_urlsafe()
        self._busy = threading.Lock()  # neither matplotlib nor a model takes two at a time
        self._looking = threading.Lock()  # the folder is looked through once, however many pages ask
        self._chat: tuple[Path, Chat, str] | None = None
        self._report: tuple[str, str] | None = None

    def page(self) -> str:
        """The page itself."""
        return render("view/view.html.jinja", folder=str(self.folder), token=self.token)

    def state(self) -> dict[str, Any]:
        """The runs, and the version of the report; empty where nothing is evaluated."""
        with self._looking:
            return {"runs": [run.as_json() for run in runs_in(self.folder)], "report": self._version()}

    def report(self) -> str:
        """The report on everything that is evaluated in the folder."""
        version = self._version()
        with self._busy:
            if self._report is None or self._report[0] != version:
                self._report = version, self._made()
            return self._report[1]

    def _made(self) -> str:
        named = evaluated(self.folder)
        gathered = distinct(gather(named))
        more = beside(named, gathered, start=None, retain=None)
        evaluations = (*gathered, *more.evaluations)
        attacks = {file.resolve(): load_attacked(file) for file in self._attacks(named)}
        shown, left = fitting(assign_roles(evaluations, start=more.start, retain=more.retain), [], attacks)
        with tempfile.TemporaryDirectory() as aside:
            path = report(
                evaluations,
                Path(aside) / "report.html",
                title=f"Unlearning report: {self.folder.resolve().name}",
                start=more.start,
                retain=more.retain,
                notes=(*more.notes, *left),
                attacked=shown,
            )
            return path.read_text(encoding="utf-8")

    def _attacks(self, named: list[Path]) -> list[Path]:
        return [file for run in named for file in attacked_beside(run)]

    def _version(self) -> str:
        """Changes when an evaluation or a result of attacks does; empty where nothing is evaluated."""
        named = evaluated(self.folder)
        files = [file for run in named for place in places(run) for file in sorted(place.glob("*.json"))]
        files += self._attacks(named)
        stats = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in dict.fromkeys(files)]
        return f"{hash(tuple(stats)):x}" if named else ""

    def answers(self, run: str, prompt: str) -> Iterator[dict[str, Any]]:
        """What the models say to a prompt, as they write; the last one is whole.

        Raises:
            ExpungeError: no such run, or a prompt that cannot be asked.
        """
        place = next((one for one in run_folders(self.folder) if one == self.folder / run), None)
        if place is None:
            raise ExpungeError(f"no run {run!r} in {self.folder}.")
        with self._busy:
            if self._chat is None or self._chat[0] != place:
                self._chat = None  # one run's models at a time
                yield {"status": f"Loading the models of {run}"}
                self._chat = place, *self.open_chat(place)
            _, chat, note = self._chat
            yield from ({**state, "note": note} for state in _streamed(chat, prompt))


class _ReaderLeft(Exception):
    """Ends a generation that nobody reads any more."""


def _streamed(chat: Chat, prompt: str) -> Iterator[dict[str, Any]]:
    """States of an exchange while a thread writes it, which ends before this does: one generation at a time."""
    states: list[Exchange] = []
    failed: list[BaseException] = []
    left = threading.Event()

    def take(state: Exchange) -> None:
        if left.is_set():
            raise _ReaderLeft
        states.append(state)

    def write() -> None:
        try:
            states.append(chat.ask(prompt, shown=take))
        except BaseException as error:  # raised again in the thread that asked
            failed.append(error)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        while writer.is_alive():
            writer.join(PAUSE)
            if states and writer.is_alive():
                yield _told(states[-1])
    finally:
        left.set()
        writer.join()
    if failed:
        raise failed[0]
    yield _told(states[-1])


def _told(exchange: Exchange) -> dict[str, Any]:
    said = {name: answers[0] for name, answers in exchange.answers.items()}
    return {
        "known": exchange.known,
        "split": exchange.split,
        "answers": [
            {"model": name, "text": one.text, "probability": one.probability, "ended": one.ended}
            for name, one in said.items()
        ],
    }


class _Handler(BaseHTTPRequestHandler):
    """Answers the page."""

    server: "Server"

    def do_GET(self) -> None:
        """The page, its assets, the state of the runs and the report."""
        if not self._own():
            return
        path, view = urlsplit(self.path).path, self.server.view
        try:
            if path == "/":
                self._send("text/html", view.page(), {"Content-Security-Policy": _POLICY})
            elif path in _ASSETS:
                self._send(_ASSETS[path], (_HERE / path[1:]).read_text(encoding="utf-8"))
            elif path == "/state.json":
                self._send("application/json", json.dumps(view.state()))
            elif path == "/report":
                self._send("text/html", view.report())
            else:
                self._send("text/plain", "There is no such page.", status=404)
        except ExpungeError as error:
            self._send("text/plain", str(error), status=409)
        except ConnectionError:
            pass  # the reader has left
        except Exception as error:  # a file that goes while it is read must not end the page
            self._send("text/plain", f"This could not be read: {error!r}. Load the page again.", status=500)

    def do_POST(self) -> None:
        """Put a prompt to the models of a run; the answers come as lines of JSON while they are written."""
        if not self._own():
            return
        length, token = self.headers.get("Content-Length") or "0", self.headers.get(TOKEN, "")
        size = int(length) if length.isdecimal() else LONGEST + 1
        if self.path != "/ask" or not secrets.compare_digest(token.encode(), self.server.view.token.encode()):
            self._send("text/plain", "Prompts are taken from the page itself.", status=403)
            return
        if size > LONGEST:
            self._send("text/plain", f"A prompt may have {LONGEST} bytes.", status=413)
            return
        try:
            asked: Mapping[str, Any] = json.loads(self.rfile.read(size))
            run, prompt = str(asked["run"]), str(asked["prompt"])
        except (ValueError, KeyError, TypeError):
            self._send("text/plain", "A prompt is JSON with run and prompt.", status=400)
            return
        self.send_response(200)
        self._headers("application/x-ndjson")
        try:
            for state in self.server.view.answers(run, prompt):
                self._line(state)
        except ConnectionError:
            pass  # the reader has left
        except Exception as error:  # such as no memory for the models: the page must hear of it
            self._line({"error": str(error) if isinstance(error, ExpungeError) else repr(error)})

    def _own(self) -> bool:
        """Was this machine asked under its own name? A page elsewhere may let its name point here."""
        port = self.server.server_address[1]
        if self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}"):
            return True
        self._send("text/plain", "This page is for this machine alone.", status=403)
        return False

    def _line(self, state: Mapping[str, Any]) -> None:
        self.wfile.write(json.dumps(state).encode() + b"\n")
        self.wfile.flush()

    def _headers(self, kind: str, more: Mapping[str, str] | None = None) -> None:
        fixed = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Frame-Options": "SAMEORIGIN",
        }
        for name, value in {**fixed, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, kind: str, text: str, more: Mapping[str, str] | None = None, *, status: int = 200) -> None:
        content = text.encode()
        self.send_response(status)
        self._headers(kind, {**(more or {}), "Content-Length": str(len(content))})
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of single requests."""


class Server(ThreadingHTTPServer):
    """Serves a view at an address of this machine that no other can reach."""

    daemon_threads = True

    def __init__(self, view: View, port: int) -> None:
        """Listen.

        Args:
            view: what is served.
            port: of this machine; 0: any that is free.

        Raises:
            ExpungeError: the port is taken.
        """
        self.view = view
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise ExpungeError(f"port {port} cannot be used: {error}. Choose another: port=0 takes any.") from error

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_address[1]}/"

"""The usual set-ups of Prefect, each against a server that is there: files of settings, keys, TLS, shared servers."""

import asyncio
import contextlib
import datetime
import http.server
import ipaddress
import os
import queue
import shutil
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import dvc_project
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dvc_project import Project, end, post, wait
from scheduler import NEVER, Scheduler

from flows.prefect_server import database, runs, settings

KEY = "sesame-open-up"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 by nobody whom the system trusts, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=9))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(private, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "lab.pem"
    pem = serialization.Encoding.PEM
    key = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(signed.public_bytes(pem) + key)
    return file


@pytest.fixture
def guarded(api: str, certificate: Path) -> Iterator[str]:
    """The server behind a proxy that speaks TLS and lets nobody in who does not know KEY."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    upstream = urllib.parse.urlsplit(api)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if f"authorization: Bearer {KEY}\r\n".lower() in head.decode().lower():
                inner, outer = await asyncio.open_connection(upstream.hostname, upstream.port)
                writers.append(outer)
                outer.write(head)
                ways = [asyncio.ensure_future(pass_on(*way)) for way in ((reader, outer), (inner, writer))]
                await asyncio.wait([*ways, stopping], return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
            else:
                writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
        for one in writers:
            one.transport.abort()

    async def run() -> None:
        nonlocal stopping
        stopping = asyncio.ensure_future(asyncio.Event().wait())
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
            ports.put((asyncio.get_running_loop(), server.sockets[0].getsockname()[1]))
            with contextlib.suppress(asyncio.CancelledError):
                await stopping
        await asyncio.sleep(0.2)  # what is open is closed

    stopping: asyncio.Future
    ports: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, int]] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    loop, port = ports.get()
    yield f"https://127.0.0.1:{port}/api"
    loop.call_soon_threadsafe(lambda: stopping.cancel())
    thread.join()


def test_a_profile_names_a_server_with_tls_and_a_key(
    project: Project,
    api: str,
    guarded: str,
    certificate: Path,
    start: Callable[..., Scheduler],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prefect's usual file, and nothing else: for a rebuild, and for a scheduler and what it starts."""
    monkeypatch.setattr(dvc_project, "FORKED", False)  # Prefect looks for HOME when it is imported
    home = project.home / "home"
    (home / ".prefect").mkdir(parents=True)
    profile = f'[profiles.lab]\nPREFECT_API_URL = "{guarded}"\nPREFECT_API_SSL_CERT_FILE = "{certificate}"\n'
    (home / ".prefect" / "profiles.toml").write_text(f'active = "lab"\n{profile}')
    (line,) = project.run("rebuild", code=2, HOME=str(home))
    assert line == f"rebuild: PREFECT_API_URL: {guarded[8:-4]}: " + (
        "Prefect's server refuses (HTTP 401); set PREFECT_API_KEY, or PREFECT_API_AUTH_STRING to its password"
    )
    (home / ".prefect" / "profiles.toml").write_text(f'active = "lab"\n{profile}PREFECT_API_KEY = "{KEY}"\n')
    scheduler = start("--cron", NEVER, "--rebuild-cron", NEVER, name="guarded", HOME=str(home))
    scheduler.api = api  # for the test's own questions
    run = scheduler.begin("rebuild")
    scheduler.said("rebuild: completed: 5 ran")
    wait(lambda: scheduler.state(run)["type"] == "COMPLETED")
    scheduler.stop()
    mine = f"working-copy:{runs.working_copy_id(project.home)}"
    (done,) = post(api, "flow_runs", {"flow_runs": {"tags": {"all_": [mine]}}})
    assert done["state_name"] == "Completed"
    assert project.run("rebuild", "--force", HOME=str(home))[-1] == "rebuild: 5 ran"
    assert len(post(api, "flow_runs", {"flow_runs": {"tags": {"all_": [mine]}}})) == 2
    assert not (project.home / ".palimpsest/logs/prefect-server.log").exists(), "no server of its own"


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder, and an environment without Prefect's variables; Prefect's settings are as before in the end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "PALIMPSEST"))}
    with mock.patch.dict(os.environ, {**own, "HOME": str(tmp_path / "home")}, clear=True):
        yield tmp_path
    settings.reread()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".env", "PREFECT_API_URL={api}\nPREFECT_API_KEY=secret\nPREFECT_LOGGING_LEVEL=DEBUG\n"),
        ("prefect.toml", 'api = {{url = "{api}", key = "secret"}}\nlogging.level = "DEBUG"\n'),
        ("pyproject.toml", '[tool.prefect]\napi = {{url = "{api}", key = "secret"}}\nlogging.level = "DEBUG"\n'),
        (
            "lab.toml",
            '[profiles.lab]\nPREFECT_API_URL="{api}"\nPREFECT_API_KEY="secret"\nPREFECT_LOGGING_LEVEL="DEBUG"',
        ),
    ],
)
def test_what_prefects_files_say_becomes_variables(fresh: Path, file: str, text: str) -> None:
    """For all that this process starts, which may begin in other folders; what the environment says stands."""
    (fresh / file).write_text(text.format(api="https://lab.example/api"))
    if file == "lab.toml":
        os.environ.update(PREFECT_PROFILES_PATH=file, PREFECT_PROFILE="lab")
    os.environ["PREFECT_API_KEY"] = "mine"
    settings.prepare(fresh)
    assert os.environ["PREFECT_API_URL"] == "https://lab.example/api"
    assert os.environ["PREFECT_API_KEY"] == "mine"
    assert os.environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["PREFECT_HOME"] == str(fresh / settings.HOME)
    assert os.environ["PREFECT_SERVER_EPHEMERAL_ENABLED"] == "false"


@pytest.mark.parametrize("file", ["prefect.toml", "pyproject.toml", ".env"])
def test_files_that_name_no_server_change_nothing(fresh: Path, file: str) -> None:
    words = "prefect_logging_level=DEBUG" if file == ".env" else 'tool.prefect.logging.level = "DEBUG"\nurl="none"'
    (fresh / file).write_text(words)
    settings.prepare(fresh)
    assert "PREFECT_API_URL" not in os.environ
    assert os.environ["PREFECT_LOGGING_LEVEL"] == "INFO"


def test_an_empty_address_is_no_server(fresh: Path) -> None:
    from flows.prefect_server import server

    (fresh / ".env").write_text("PREFECT_API_URL=https://lab.example/api\n")
    os.environ["PREFECT_API_URL"] = ""
    assert not server.elsewhere(fresh)


def test_a_server_of_this_machine_that_does_not_run_is_started(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prefect's usual profile names port 4200, where `palimpsest schedule` itself is to answer."""
    from flows.prefect_server import server

    (fresh / ".env").write_text("PREFECT_API_URL=http://127.0.0.1:9/api\n")
    assert not server.elsewhere(fresh)
    line = "Prefect's settings name a server at 127.0.0.1:9, where none answers: one is started\n"
    assert capsys.readouterr().err == line


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """Servers that answer everything with one HTTP status."""
    servers = []

    def start(status: int, context: ssl.SSLContext | None = None) -> str:
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), Answer))
        if context:
            servers[-1].socket = context.wrap_socket(servers[-1].socket, server_side=True)
        threading.Thread(target=servers[-1].serve_forever).start()
        return f"http{'s' if context else ''}://127.0.0.1:{servers[-1].server_port}/api"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "gone", "words"),
    [
        (401, False, "refuses (HTTP 401); set PREFECT_API_KEY, or PREFECT_API_AUTH_STRING to its password"),
        (403, False, "refuses (HTTP 403); set PREFECT_API_KEY"),
        (404, False, "refuses (HTTP 404)"),
        (409, False, "refuses (HTTP 409)"),
        (429, True, "does not do as it is asked (HTTP 429)"),
        (500, True, "does not do as it is asked (HTTP 500)"),
        (503, True, "does not do as it is asked (HTTP 503)"),
        (None, True, "does not answer (ConnectError)"),
    ],
)
def test_a_server_that_is_gone_is_told_from_one_that_refuses(
    fresh: Path, answering: Callable[[int], str], status: int | None, gone: bool, words: str
) -> None:
    from flows.prefect_server import errors, server

    os.environ["PREFECT_API_URL"] = answering(status) if status else "http://127.0.0.1:9/api"
    settings.prepare(fresh)
    error = server.trouble()
    assert error is not None
    assert errors.gone(error) == gone
    assert errors.words(error).startswith(f"Prefect's server {words}")


def test_a_certificate_that_nobody_trusts_is_named(
    fresh: Path, answering: Callable[..., str], certificate: Path
) -> None:
    from flows.prefect_server import errors, server

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    os.environ["PREFECT_API_URL"] = answering(200, context)
    settings.prepare(fresh)
    assert (error := server.trouble()) is not None
    assert not errors.gone(error)
    assert errors.words(error).endswith("PREFECT_API_SSL_CERT_FILE names its authority's")
    assert not server.answers()
    os.environ["PREFECT_API_TLS_INSECURE_SKIP_VERIFY"] = "true"
    settings.reread()
    assert server.answers()


def test_machines_of_one_name_and_path_are_told_apart(fresh: Path, api: str) -> None:
    """As containers are: what runs in the one is not dead to the other, and the next rebuild of its own buries it."""
    from prefect.client.orchestration import get_client
    from prefect.context import TagsContext
    from prefect.flows import Flow
    from prefect.states import Running

    os.environ["PREFECT_API_URL"] = api
    settings.prepare(fresh)
    flow = Flow(lambda: None, name="held")
    with get_client(sync_client=True) as client:
        with runs.tagged("held", fresh):
            run = client.create_flow_run(flow, state=Running(), tags=TagsContext.get().current_tags).id
        (fresh / ".palimpsest").rename(fresh / "other")
        with runs.tagged("held", fresh):
            assert client.read_flow_run(run).state_name == "Running"
        (fresh / ".palimpsest").rename(fresh / "another")
        (fresh / "other").rename(fresh / ".palimpsest")
        with runs.tagged("held", fresh):
            assert client.read_flow_run(run).state_name == "Crashed"


def test_a_rebuild_whose_run_is_deleted_ends_as_others(project: Project, api: str) -> None:
    project.control("gen.hold").touch()
    process = project.start("rebuild", PREFECT_API_URL=api)
    mine = {"flow_runs": {"tags": {"all_": [f"working-copy:{runs.working_copy_id(project.home)}"]}}}
    wait(lambda: [run for run in post(api, "flow_runs", mine) if run["state_name"] == "Running"])
    (run,) = post(api, "flow_runs", mine)
    request = urllib.request.Request(f"{api}/flow_runs/{run['id']}", method="DELETE")

    def deleted() -> bool:
        try:
            urllib.request.urlopen(request, timeout=30).close()
        except urllib.error.HTTPError as error:  # its database is busy: Prefect's own clients ask again
            error.close()
            return False
        return True

    wait(deleted)
    project.control("gen.hold").unlink()
    lines = end(process)
    assert "rebuild: the run was deleted there: Prefect's page does not tell the end, dvc.lock does" in lines
    assert lines[-1] == "rebuild: 5 ran"
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("ours", [False, True])
def test_a_shared_server_gets_heartbeats(fresh: Path, api: str, ours: bool) -> None:
    """By which whoever watches it knows a killed run; nobody watches one of ours, and a heartbeat's end takes time."""
    from prefect import flow
    from prefect.runtime import flow_run

    from flows.prefect_server import server

    os.environ["PREFECT_API_URL"] = api
    if ours:
        os.environ[server.OURS] = api
    settings.prepare(fresh)

    def events(run: str) -> list[str]:
        query = {"filter": {"any_resource": {"id": [f"prefect.flow-run.{run}"]}}}
        return [event["event"].rpartition(".")[2] for event in post(api, "events", query)["events"]]

    def beating() -> str:
        if not ours:
            wait(lambda: "heartbeat" in events(flow_run.id))
        return str(flow_run.id)

    with runs.tagged("beating", fresh):
        run = flow(name="beating", persist_result=False)(beating)()
    wait(lambda: "Completed" in events(run))
    assert ("heartbeat" in events(run)) != ours


def test_two_that_begin_at_once_have_one_id(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(runs.working_copy_id(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    (tmp_path / runs.ID).write_text("")  # as a power cut may leave it
    assert len({*found, runs.working_copy_id(tmp_path), runs.working_copy_id(tmp_path)}) == 2
    assert runs.working_copy_id(tmp_path) != runs.working_copy_id(tmp_path / ".." / tmp_path.name), "a copy's path"


def test_two_servers_do_not_share_a_database(
    project: Project, api: str, prefect_home: Path, prefect_database: Path, fresh: Path
) -> None:
    """One that the user has started by hand has the first; a rebuild's has the second, another the third."""
    shutil.copy(prefect_database, prefect_home / "prefect-2.db")
    project.control("gen.hold").touch()
    process = project.start("rebuild", PREFECT_HOME=str(prefect_home))
    wait(lambda: "gen" in project.trace())
    wait(lambda: database.in_use(prefect_home / "prefect-2.db"))
    os.environ["PREFECT_HOME"] = str(prefect_home)
    variables, (lock,) = database.environment()
    os.close(lock)
    assert variables == {database.URLS[0]: f"sqlite+aiosqlite:///{prefect_home}/prefect-3.db"}
    project.control("gen.hold").unlink()
    lines = end(process)
    assert lines[-1] == "rebuild: 5 ran"
    words = "another Prefect server uses it; this one keeps its runs in prefect-2.db"
    assert f"{prefect_home}/prefect.db: {words}" in lines
    wait(lambda: not database.in_use(prefect_home / "prefect-2.db"))
    os.environ[database.URLS[0]] = "postgresql+asyncpg://lab/prefect"
    assert database.environment() == ({}, []), "its own matter"
    del os.environ[database.URLS[0]]
    os.environ[database.OTHERS[0]] = "postgresql+asyncpg"
    assert database.environment() == ({}, [])

"""`palimpsest schedule` in a project, for tests that talk to it."""

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

import forked
import psutil
from dvc_project import ENV, PATIENCE, Project, command, wait

NEVER = "0 3 29 2 *"  # in a test's time


class Scheduler:
    """`palimpsest schedule` in a project, and Prefect as it sees it."""

    def __init__(self, project: Project, *words: str, name: str = "palimpsest", **environment: str) -> None:
        self.project = project
        self.name = name
        self.lines: list[str] = []
        self.account: str | None = environment.get("PREFECT_SERVER_API_AUTH_STRING")
        env = {**ENV, "PYTHONPATH": f"{ENV['PYTHONPATH']}{os.pathsep}{Path(__file__).parent}", **environment}
        self.process = command("hasty", ["schedule", "--name", name, *words], project.home, env, project.words)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.api = ""

    def ready(self) -> "Scheduler":
        """Itself, once it schedules."""
        self.said("Prefect's page is")
        (page,) = [line for line in self.lines if "Prefect's page is" in line]
        self.api = f"{page.rpartition(' ')[2]}/api"
        return self

    def said(self, words: str) -> None:
        """Wait until it says so."""
        wait(lambda: any(words in line for line in self.lines) or self.process.poll() is not None)
        assert any(words in line for line in self.lines), self.lines

    def begin(self, command: str) -> str:
        """What `prefect deployment run` does; the run."""
        deployment = self.ask(f"deployments/name/{command}/{self.name}")["id"]
        return self.ask(f"deployments/{deployment}/create_flow_run", {})["id"]

    def state(self, run: str) -> dict:
        return self.ask(f"flow_runs/{run}")["state"]

    def ask(self, what: str, query: dict | None = None) -> dict:
        headers = {"Content-Type": "application/json"}
        if self.account:
            headers["Authorization"] = f"Basic {b64encode(self.account.encode()).decode()}"
        body = None if query is None else json.dumps(query).encode()
        request = urllib.request.Request(f"{self.api}/{what}", body, headers)
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code != 503:  # its database is busy: Prefect's own clients ask again
                        raise
            time.sleep(0.1)

    def family(self) -> list[psutil.Process]:
        return forked.family(psutil.Process(self.process.pid))

    def stop(self, number: int = signal.SIGTERM, code: int = 0) -> None:
        self.process.send_signal(number)
        self.ended(code)

    def ended(self, code: int) -> None:
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.returncode == code, self.lines

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                self.lines.append(line.rstrip("\n"))

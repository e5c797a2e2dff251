"""`palimpsest restore`: photos completed by a promoted checkpoint; several of them as a Prefect flow, a task each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.process.command import Say
from flows.restoration import detection
from flows.restoration.credentials import Credentials
from flows.restoration.fill import Cancelled as Stopped
from flows.restoration.photos import Job, jobs
from flows.restoration.restorer import Restorer, Settings
from flows.restoration.system import CLASSICAL, open_system
from stages.runs.errors import InputError

Progress = Callable[[int, int], None]


@dataclass(eq=False)
class Restoring:
    """A call's photos, and what has become of each."""

    restorer: Restorer
    jobs: Sequence[Job]
    records: list[dict[str, Any]] = field(default_factory=list)  # of those that are done
    rejected: dict[str, str] = field(default_factory=dict)  # photo: reason
    stopped: threading.Event = field(default_factory=threading.Event)
    over: bool = False

    @classmethod
    def prepared(
        cls, root: Path, photos: Sequence[Path], out: Path, models: Sequence[str], detector: Path | None,
        settings: Settings, credentials: Credentials | None, say: Say,
    ) -> Restoring:  # fmt: skip
        """Systems opened and photos listed. Raises InputError where one is not to be had; nothing is written."""
        todo = jobs(photos, out, settings.kind, settings.samples * max(1, len(models)))
        restorer = open_all(root, models, detector, settings, credentials, say)
        for system in restorer.systems:
            say(f"restore: by {system.name} ({system.facts.get('chosen') or system.facts.get('about')})")
        return cls(restorer, todo)

    def one(self, job: Job) -> str | None:
        """Restore a photo; the reason where it cannot be."""
        try:
            self.records.append({"results": str(job.stem), **self.restorer.restore(job, self._step)})
        except InputError as error:
            said = str(error)
            why = said if said.startswith(("--", str(job.photo), str(job.stem))) else f"{job.photo}: {said}"
            if len(self.jobs) == 1:
                raise InputError(why) from None
            self.rejected[str(job.photo)] = why
            return why
        except Stopped:
            raise
        except Exception as error:  # a fault of ours: it must not pass for a photo that is done
            self.rejected[str(job.photo)] = f"{job.photo}: {type(error).__name__}: {error}"
            raise
        return None

    def _step(self, done: int, count: int) -> None:
        if self.stopped.is_set():
            raise Stopped

    def summary(self) -> str:
        """One line: how many are done, and how many rejected."""
        parts = [f"{len(self.records)} of {len(self.jobs)} photos restored"]
        if self.rejected:
            parts.append(f"{len(self.rejected)} rejected")
        return ", ".join(parts)


def root_for(models: Sequence[str]) -> Path:
    """The project that a call belongs to. None is needed for systems that are files, or classical.

    Raises InputError where one is, and the current folder lies in none.
    """
    from flows.checkout.root import working_copy

    try:
        return working_copy()
    except InputError as error:
        if models and all(Path(model).is_file() or model in CLASSICAL for model in models):
            return Path.cwd()
        raise InputError(f"{error}; go into one, or give a checkpoint's file by --model") from None


def open_all(
    root: Path,
    models: Sequence[str],
    detector: Path | None,
    settings: Settings,
    credentials: Credentials | None,
    say: Say,
) -> Restorer:
    """The systems and the detector that a call asks for. Raises InputError where one is not to be had."""
    from flows.restoration import holes

    given = holes.parse(settings.hole)
    kind = {holes.COVERED: "eye_bar"}.get(given[0], given[0]) if given else None
    systems = [open_system(root, model, kind, say) for model in models] or [open_system(root, None, kind, say)]
    detect = detection.detector(root, detector)
    for system in systems:
        if settings.samples > 1 and not system.samples:
            raise InputError(
                f"--samples {settings.samples}: system '{system.name}' has one answer; take a VAE or a DCGAN by "
                "--model, or name several systems"
            )
    return Restorer(systems, detect, settings, signer(root), credentials)


def credentials_in(chain: Path | None, key: Path | None) -> Credentials | None:
    """What `--c2pa` and `--c2pa-key` name. Raises InputError where one is missing, or not to be used."""
    from flows.restoration import credentials

    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise InputError("--c2pa and --c2pa-key: give both, a certificate chain and its private key")
    return credentials.read(chain, key)


def signer(root: Path) -> Any:
    """The user, by the private key; None where there is no key, or no repository that says whether it still counts."""
    from flows.checkout.git import GitError
    from flows.lineage import keys
    from flows.operations.command_line import key_passphrase

    try:
        return keys.own(root, key_passphrase())
    except GitError:
        return None


def run(work: Restoring, root: Path) -> None:
    """Restore one photo here, or several as a flow. On Ctrl-C the photo at work is left, and the rest not begun.

    Outside of a project no place is Prefect's: there several are restored here too.
    """
    if len(work.jobs) > 1 and (root / ".dvc").is_dir():
        _launch(work, root)
        return
    for job in _shown(work.jobs) if len(work.jobs) > 1 else work.jobs:
        work.one(job)
    work.over = True


def _launch(work: Restoring, root: Path) -> None:
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.states import Cancelled, Completed, Failed, State

    from flows.operations import scheduler_state
    from flows.prefect_server import errors, runs, server
    from flows.prefect_server.background import run_in_background

    @task(task_run_name="{photo}", cache_policy=NO_CACHE, persist_result=False)
    def photo(photo: str, job: Job) -> State:
        """One photo; where it is rejected, the task's message is the reason."""
        try:
            why = work.one(job)
        except Stopped:
            return Cancelled(message="interrupted")
        return Failed(message=why) if why else Completed(message=str(job.stem))

    @flow(name="restore", persist_result=False)
    def restore(photos: int, systems: list[str]) -> State:
        """Complete photos. The parameters are for Prefect's page."""
        for job in _shown(work.jobs):
            if work.stopped.is_set():
                break
            photo(job.photo.name, job, return_state=True)
        work.over = True
        return Completed(message=work.summary())

    failures: list[BaseException] = []

    def begin() -> None:
        try:
            with runs.tagged(restore.name, root):
                restore(len(work.jobs), [system.name for system in work.restorer.systems], return_state=True)
        except BaseException as error:
            failures.append(error)

    server.use(root, scheduler_state.api(root))()
    run_in_background(begin, lambda: work.over, work.stopped.set, work.stopped.set)
    if failures and not work.over:
        raise InputError(errors.words(failures[0]))


def _shown(jobs: Iterable[Job]) -> Iterable[Job]:
    from tqdm import tqdm

    return tqdm(jobs, "restore", unit="photo", mininterval=1, disable=None)


def show(work: Restoring) -> None:
    """What was done, for people."""
    for record in work.records:
        where = ", ".join(name for name in record["files"])
        found = len(record["faces"])
        share = record["hole"]["share"]
        print(f"{record['results']}: {found} face{'s' * (found != 1)}, {share:.1%} of the photo completed: {where}")
    for photo, why in work.rejected.items():
        print(f"rejected: {photo}: {why.removeprefix(f'{photo}: ')}")
    if len(work.jobs) > 1:
        print(f"restore: {work.summary()}")


def machine(work: Restoring) -> str:
    """The same for machines: the records, and the rejected photos with their reasons."""
    import json

    return json.dumps({"restored": work.records, "rejected": work.rejected}, indent=1, ensure_ascii=False)

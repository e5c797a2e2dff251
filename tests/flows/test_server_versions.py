"""Prefect's server with the versions of FastAPI and SQLAlchemy that are installed: some pairs do not work."""

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import forked
import pytest
from cronsim import CronSim
from dvc_project import ENV, PATIENCE, prefect_server, wait
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule

CRON = "0 3 * * *"


@flow
def clock() -> None:
    """It never runs."""


def test_the_server_works_with_the_installed_fastapi_and_sqlalchemy(
    prefect_database: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It makes the runs of a cron line, its command line lists them, and it logs no error.

    A newer FastAPI has let no server start, or let `flow-run ls` fail; a newer SQLAlchemy has let no run be made.
    """
    home = tmp_path_factory.mktemp("server") / "prefect"
    shutil.copytree(prefect_database.parent, home)
    with prefect_server(home) as api, SyncPrefectClient(api) as client:
        schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron=CRON, timezone="UTC"), active=True)
        flow_id = client.create_flow(clock)
        deployment = client.create_deployment(flow_id, "clock", schedules=[schedule])
        try:
            wait(lambda: client.get_scheduled_flow_runs_for_deployments([deployment]))
            runs = client.get_scheduled_flow_runs_for_deployments([deployment])
            listed = subprocess.run(
                [forked.python(), "-m", "prefect", "flow-run", "ls", "--flow-name", "clock", "-o", "json"],
                env={**ENV, "PREFECT_API_URL": api, "PREFECT_HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        finally:
            client.delete_deployment(deployment)
            client.delete_flow(flow_id)
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert min(run.expected_start_time for run in runs) == next(CronSim(CRON, datetime.now(UTC)))
    assert {run["id"] for run in json.loads(listed.stdout)} == {str(run.id) for run in runs}
    logged = (home / "log").read_text()
    assert not re.findall(r"\| (?:ERROR|CRITICAL) *\| ", logged), logged

"""One stage in a clone on another machine: `python -m flows.cluster.remote_stage ORDER ANSWER`, from the clone's root.

ORDER is a JSON file with what `other_clone.describe` gives, and `force` and `environment`. ANSWER is the one that is
written: the run-cache's `entry` and the `records` of the run, or the `error`; and the `log`. What the stage says goes
to standard output as well. SIGTERM lets it save what it needs to go on.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.checkout.git import Git
from flows.engine import other_clone
from flows.engine.repository import DvcException
from flows.engine.workspace import StageError, workspace
from flows.lineage import records
from stages.runs.errors import InputError
from stages.runs.record import home as records_folder


def main() -> None:
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer: dict[str, Any]
    try:
        answer = _run(order)
    except (StageError, InputError, DvcException) as error:
        answer = {"error": " ".join(str(error).split())}
    except OSError as error:
        answer = {"error": f"{error.filename or 'DVC'}: {error.strerror}"}
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


def _run(order: Mapping[str, Any]) -> dict[str, Any]:
    other_clone.lay_out(order, Git(Path()).paths("ls-files"))
    with workspace([other_clone.address(*order["stage"])], force=order["force"], say=_say) as work:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=work.stop).start())
        name = other_clone.node_of(work.plan, order).name
        log = work.log(name)
        log.unlink(missing_ok=True)
        answer: dict[str, Any] = {}
        try:
            work.run(name, order["environment"], _say)
            entry, outputs = other_clone.send(order)
            answer["entry"] = list(entry)
            answer["records"] = records.of_outputs(records_folder(), outputs)
        except StageError as error:
            answer["error"] = str(error)
        if log.exists():
            answer["log"] = log.read_text(encoding="utf-8")
        return answer


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()

"""`dvc.lock`, written whole or not at all, its stages in the order in which plain `dvc repro` would leave them.

DVC rewrites the file in place and appends each new stage as it finishes. A kill inside the write leaves
it cut off, and stages that finish in parallel leave another order in every run. Here each update replaces
the file, and a journal under `.dvc/tmp` remembers the order from before the first update, so that
a rebuild that was killed or failed ends, when it is repeated, in the bytes of an unbroken one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

from stages.runs.errors import InputError

JOURNAL = "palimpsest.journal.json"


class Ledger:
    """The `dvc.lock` beside one `dvc.yaml`. Its methods are to be called under DVC's repository lock."""

    def __init__(self, repo: Repo, pipeline_file: str, plan: Sequence[str]) -> None:
        """`plan` names the stages in the order in which `dvc repro` would run them.

        A file that a killed write has cut off is put back as the journal remembers it; where the journal
        does not know it, it is moved aside: DVC's run-cache returns what it held.

        Raises InputError where a merge has left conflicts in the file.
        """
        self.path = Path(pipeline_file).with_suffix(".lock")
        self.plan = plan
        self._journal = Path(repo.tmp_dir) / JOURNAL
        self._key = os.path.relpath(self.path, repo.root_dir)
        known = self._entries().get(self._key, {})
        self.mended = self._mend(repo, known.get("texts", []))
        text = self._text()
        if known.get("order") is not None and text in known["texts"]:
            self._order: list[str] = known["order"]
        else:
            self._order = list((parse_yaml_for_update(text, self.path) or {}).get("stages", {}))

    def record(self, stage: PipelineStage) -> None:
        """Write what `stage` has become."""
        old = self._text()
        data = parse_yaml_for_update(old, self.path)
        if not data:
            data.update({"schema": "2.0"})
        stages = data.setdefault("stages", {})
        stages.update(to_lockfile(stage))
        rank = {name: place for place, name in enumerate(dict.fromkeys([*self._order, *self.plan]))}
        data["stages"] = {name: stages[name] for name in sorted(stages, key=lambda name: rank.get(name, len(rank)))}
        new = dumps_yaml(data)
        if new != old:
            self._remember({"texts": [old, new], "order": self._order})
            _replace(self.path, new, self._journal.parent)

    def close(self) -> None:
        """All stages are up to date: the next rebuild starts from the order that the file has now."""
        if self.path.exists():
            self._remember({"texts": [self._text()]})

    def _text(self) -> str:
        return self.path.read_text(encoding="utf-8") if self.path.exists() else ""

    def _mend(self, repo: Repo, texts: Sequence[str]) -> bool:
        if not self.path.exists():
            return False
        text = self._text()
        if any(line.startswith("<<<<<<< ") for line in text.splitlines()):
            raise InputError(
                f"{self._key}: a merge has left conflicts in it; resolve them (`git checkout --ours -- {self._key}`)"
            )
        try:
            if text.strip():
                Lockfile(repo, str(self.path)).load()
                return False
        except DvcException:
            pass
        if texts:
            _replace(self.path, texts[-1], self._journal.parent)
        else:
            self.path.replace(self._journal.with_name(f"{self.path.name}.torn"))
        return True

    def _entries(self) -> dict[str, dict]:
        return json.loads(self._journal.read_text(encoding="utf-8")) if self._journal.exists() else {}

    def _remember(self, entry: dict) -> None:
        text = json.dumps(self._entries() | {self._key: entry})
        _replace(self._journal, text, self._journal.parent)


def _replace(path: Path, text: str, tmp: Path) -> None:
    """Write `path` whole or not at all."""
    draft = tmp / f"palimpsest.{path.name}"  # not beside it: a kill would leave a stray file in Git's sight
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)

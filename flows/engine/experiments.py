"""DVC's experiments: commits under names of their own, beside the branches."""

from __future__ import annotations

from dvc.repo.experiments.refs import ExpRefInfo


def reference(commit: str, name: str) -> str:
    """The Git reference of the experiment `name` that comes from a commit, as `dvc exp` looks for it."""
    return str(ExpRefInfo(commit, name))

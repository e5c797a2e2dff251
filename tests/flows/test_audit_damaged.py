"""A damaged `dvc.lock` of some commit or fetched branch ends no answer of the audit: it is left out, and named."""

import pytest

from flows.lineage import dvc_lock
from stages.runs.errors import InputError


@pytest.mark.parametrize(
    "text", ["a: !!bool x\n", "a: !!int ''\n", "a: !!float ''\n", "a: !!timestamp x\n", "a: &a [*b]\n"]
)
def test_whatever_is_wrong_with_yaml_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"\Asigners\.yaml: not valid YAML: .*; mend or restore it\Z"):
        dvc_lock.parse(text, "signers.yaml")

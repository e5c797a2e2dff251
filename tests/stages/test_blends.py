"""Which entries of `blend` are of a system, the first being its own."""

from hypothesis import given
from hypothesis import strategies as st

from stages.metrics.blends import of_systems

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])


def test_the_entry_of_the_systems_name_is_its_own_or_else_the_first() -> None:
    blend = {"soft": "net", "net": "net", "late": "other", "last": "other"}
    found = of_systems({name: {"system": system} for name, system in blend.items()})
    assert found == {"net": ["net", "soft"], "other": ["late", "last"]}


@given(st.dictionaries(NAMES, NAMES))
def test_every_entry_is_of_one_system_and_they_keep_their_order(blend: dict[str, str]) -> None:
    found = of_systems({name: {"system": system} for name, system in blend.items()})
    assert sorted(name for names in found.values() for name in names) == sorted(blend)
    for system, names in found.items():
        assert all(blend[name] == system for name in names)
        others = [name for name in names if name != system]
        assert others == [name for name in blend if name in others]
        assert system not in names[1:]

"""Which side a picture lies on: groups by pixels and people, strictness, and that strangers move nobody."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.images.sources import TRAIN_OR_VAL
from stages.images.splits import Member, Place, Split, assign, split_of
from stages.images.table import SPLITS

SHARES = Split(val=0.25, test=0.25)


def key(side: str, kind: str = "") -> str:
    """A key that the hash puts on that side."""
    return next(k for n in range(999) if split_of(kind + (k := f"{side} {n}"), SHARES) == side)


VAL = Member("4", "q", official="val")
TRAINED, TESTED = key("train", "identity "), key("test", "identity ")  # two people by their hashes

# Few pictures and people, so that they meet.
members = st.lists(
    st.builds(
        Member,
        path=st.just(""),
        pixel_sha256=st.sampled_from([f"pixels {n}" for n in range(9)]),
        identity=st.sampled_from([None, None, "Ada", "Ben", "Cem", TRAINED, TESTED]),
        official=st.sampled_from([None, None, TRAIN_OR_VAL, *SPLITS]),
    ),
    max_size=16,
).map(lambda found: [replace(member, path=f"{n:02d}.png") for n, member in enumerate(found)])


def by_path(found: list[Member]) -> dict[str, Place]:
    return dict(zip((member.path for member in found), assign(found, SHARES), strict=True))


def groups(found: list[Member]) -> list[list[Member]]:
    """The members by what links them: merged one by one until nothing is left to merge."""
    merged: list[list[Member]] = []
    for member in found:
        near = [
            group
            for group in merged
            if any(
                other.pixel_sha256 == member.pixel_sha256 or (other.identity and other.identity == member.identity)
                for other in group
            )
        ]
        merged = [group for group in merged if group not in near] + [[member, *(m for group in near for m in group)]]
    return merged


@given(members)
def test_a_group_lies_on_one_side_and_no_official_picture_on_a_laxer_one(found: list[Member]) -> None:
    places = by_path(found)
    for group in groups(found):
        (side,) = {places[member.path].side for member in group}
        for member in group:
            assert SPLITS.index(side) >= SPLITS.index(member.official if member.official in SPLITS else "train")


@given(members)
def test_one_of_equal_pictures_stays_and_it_is_of_the_strictest(found: list[Member]) -> None:
    places = by_path(found)
    copies = defaultdict(list)
    for member in found:
        copies[member.pixel_sha256].append(member)
    for equal in copies.values():
        (kept,) = {places[member.path].kept for member in equal}
        official = {m.path: SPLITS.index(m.official) if m.official in SPLITS else -1 for m in equal}
        assert kept in official
        if not any(member.identity for member in equal) and max(official.values()) > 0:
            assert official[kept] == max(official.values())


@given(members, st.randoms())
def test_neither_order_nor_names_change_a_side(found: list[Member], random: object) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert by_path(shuffled) == by_path(found)
    renamed = [replace(member, path=f"x{member.path}") for member in shuffled]
    sides = {path: place.side for path, place in by_path(found).items()}
    assert {
        member.path[1:]: place.side for member, place in zip(renamed, assign(renamed, SHARES), strict=True)
    } == sides


@given(members, members)
def test_strangers_move_nobody(found: list[Member], others: list[Member]) -> None:
    strangers = [
        replace(
            other,
            path=f"!{other.path}",  # sorts before all
            pixel_sha256=f"other {other.pixel_sha256}",
            identity=other.identity and f"other {other.identity}",
        )
        for other in others
    ]
    assert by_path(found).items() <= by_path(strangers + found).items()


@given(members, st.data())
def test_a_nameless_copy_moves_nobody_who_has_a_side(found: list[Member], data: st.DataObject) -> None:
    labelled = [member for member in found if member.identity or member.official]
    if not labelled:
        return
    original = data.draw(st.sampled_from(labelled))
    copy = Member(path="!.png", pixel_sha256=original.pixel_sha256)
    assert by_path(found).items() <= by_path([copy, *found]).items()


@given(members, members)
def test_whoever_is_known_by_name_never_gets_a_laxer_side(found: list[Member], others: list[Member]) -> None:
    """Where no partition speaks, newcomers can only make a known person's side stricter."""
    old = [replace(member, official=None) for member in found]
    new = [replace(other, path=f"new {other.path}", official=None) for other in others]
    before, after = by_path(old), by_path(old + new)
    for member in old:
        if member.identity:
            assert SPLITS.index(after[member.path].side) >= SPLITS.index(before[member.path].side)


@given(members)
def test_whoever_lies_elsewhere_than_alone_is_told_by_whom(found: list[Member]) -> None:
    places, by_name = by_path(found), {member.path: member for member in found}
    for member in found:
        place = places[member.path]
        if member.official in SPLITS:
            assert place.alone == member.official
        if not member.identity and member.official not in SPLITS:
            assert place.alone == assign([member], SHARES)[0].side
        assert (place.because is None) == (place.alone == place.side)
        if place.because:
            (group,) = (group for group in groups(found) if member in group)
            assert by_name[place.because] in group
            assert places[place.because].alone == place.side


@pytest.mark.parametrize(
    ("found", "sides"),
    [
        # A newcomer links a person in the test to one in the training: strictness wins.
        ([Member("1", "p", TRAINED), Member("2", "q", TESTED), Member("3", "p", TESTED)], ["test"] * 3),
        ([Member("1", "p", TRAINED), Member("2", "q", TESTED)], ["train", "test"]),
        # Over several links.
        (
            [Member("1", "p", "A", "train"), Member("2", "p", TRAINED), Member("3", "q", TRAINED), VAL],
            ["val"] * 4,
        ),
        # The partition decides over the hash of a person.
        ([Member("1", "p", TESTED, "train"), Member("2", "q", TESTED)], ["train", "train"]),
        # An official training set gives nothing to the test, whatever the hash says.
        ([Member("1", key("test"), None, TRAIN_OR_VAL)], ["train"]),
        ([Member("1", key("val"), None, TRAIN_OR_VAL)], ["val"]),
        ([Member("1", "p", TESTED, TRAIN_OR_VAL), Member("2", "q", TESTED)], ["train", "train"]),
        # Nothing is known of a picture: its pixels decide.
        ([Member("1", key("test")), Member("2", key("val")), Member("3", key("train"))], ["test", "val", "train"]),
        ([], []),
    ],
)  # fmt: skip
def test_by_hand(found: list[Member], sides: list[str]) -> None:
    assert [place.side for place in assign(found, SHARES)] == sides


def test_shares_are_met_and_nested() -> None:
    keys = [str(number) for number in range(4000)]
    counts = Counter(split_of(key, Split(val=0.1, test=0.2)) for key in keys)
    assert counts["val"] / len(keys) == pytest.approx(0.1, abs=0.02)
    assert counts["test"] / len(keys) == pytest.approx(0.2, abs=0.02)
    assert {split_of(key, Split(val=0, test=0)) for key in keys} == {"train"}

"""DMFN: its blocks, the discriminator's crop and branches, the generator's terms, the stage."""

import csv
import json
import os
import subprocess
from itertools import pairwise
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend import NO_CHECKPOINT, NO_TABLE
from small_training import OUTPUTS, run
from torch import Tensor, nn

from stages.images import table
from stages.models.dmfn import DMFN, Discriminator, FusionBlock, Network, crop
from stages.runs.errors import InputError
from stages.train_dmfn import OF_VGG, TERMS, Params, generator_loss
from stages.training import checkpoint


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def example(count: int, size: int) -> tuple[Tensor, Tensor]:
    image = torch.rand(count, 3, size, size, generator=rng(1)) * 2 - 1
    return image, torch.rand(count, 1, size, size, generator=rng(2)) < 0.4


def boxes(size: int, *spans: tuple[int, int, int, int]) -> Tensor:
    """One hole each: rows from, to; columns from, to."""
    hole = torch.zeros(len(spans), 1, size, size, dtype=torch.bool)
    for one, (top, bottom, left, right) in zip(hole, spans, strict=True):
        one[:, top:bottom, left:right] = True
    return hole


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# --- the fusion block ---


def into_fusion(block: FusionBlock, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What a block concatenates, in its four parts, and the reduced features they come of."""
    seen: list[Tensor] = []
    block.fuse.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        block(x)
        return block.reduce(x), list(seen[0].chunk(4, 1))


@pytest.mark.parametrize(("combine", "factors"), [("dense", (1, 22, 366, 6830)), ("sum", (1, 11, 111, 1111))])
def test_dilations_are_combined_from_near_to_far(combine: str, factors: tuple[int, ...]) -> None:
    """Branches that multiply by 1, 10, 100, 1000; K2, K3, K4 by 2, 3, 5: y2 = 2 (1 + 10), y3 = 3 (22 + 100), ..."""
    block = FusionBlock(8, combine)
    weights = [(branch, 10**i) for i, branch in enumerate(block.branches)]
    weights += list(zip(block.combine, (2, 3, 5), strict=True)) if combine == "dense" else []
    for layer, factor in weights:
        layer.weight.data.zero_()
        for channel in range(2):
            layer.weight.data[channel, channel, 1, 1] = factor
    reduced, scales = into_fusion(block, torch.randn(2, 8, 6, 6, generator=rng(0)))
    assert len(scales) == 4
    for scale, factor in zip(scales, factors, strict=True):
        torch.testing.assert_close(scale, factor * reduced)


def test_branches_reach_as_far_as_their_dilations() -> None:
    """Seventeen pixels wide, the block's 3x3 branches see 1, 2, 4 and 8 pixels away; 'sum' has no K beside them."""
    block = FusionBlock(4, "sum")
    impulse = torch.zeros(1, 1, 17, 17)
    impulse[0, 0, 8, 8] = 1
    for branch, reach in zip(block.branches, (1, 2, 4, 8), strict=True):
        with torch.no_grad():
            touched = branch(impulse)[0, 0].nonzero() - 8
        assert {tuple(place) for place in touched.tolist()} == {
            (y, x) for y in (-reach, 0, reach) for x in (-reach, 0, reach)
        }


def test_a_block_is_a_residual_that_ends_in_instance_normalisation() -> None:
    x = torch.randn(2, 8, 12, 12, generator=rng(0))
    with torch.no_grad():
        change = FusionBlock(8)(x) - x
    torch.testing.assert_close(change.mean((2, 3)), torch.zeros(2, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(change.std((2, 3), correction=0), torch.ones(2, 8), atol=1e-2, rtol=0)


def test_a_combination_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="dense or sum, not max"):
        FusionBlock(8, "max")


# --- the generator ---


def test_parameters_at_the_reports_scale() -> None:
    """Convolutions that are normalised have no bias; the first and the last have one."""
    block = 9 * 256 * 64 + 4 * 9 * 64**2 + 3 * 9 * 64**2 + 256**2
    encoder = 25 * 4 * 64 + 64 + 9 * (64 * 128 + 128 * 128 + 128 * 256)
    decoder = 9 * 256**2 + 16 * 256 * 128 + 9 * 128**2 + 16 * 128 * 64 + 9 * 64**2 + 9 * 64 * 3 + 3
    assert count(DMFN(256, 64, 8)) == encoder + 8 * block + decoder
    assert count(DMFN(256, 64, 8, "sum")) == encoder + 8 * (block - 3 * 9 * 64**2) + decoder


@pytest.mark.parametrize("combine", ["dense", "sum"])
def test_shape_range_and_gradients(combine: str) -> None:
    network = DMFN(32, 4, 2, combine)
    output = network(*example(2, 32))
    assert output.shape == (2, 3, 32, 32)
    assert output.abs().max() <= 1
    output.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("size", [16, 20, 36, 64, 100, 256])
def test_every_size_that_is_a_multiple_of_four(size: int) -> None:
    image, hole = example(1, size)
    with torch.no_grad():
        assert DMFN(size, 2, 1)(image, hole).shape == image.shape
        logits, maps = Discriminator(size, 2).eval()(image, hole)
    assert logits.shape == (1,)
    assert 4 <= maps[-1].shape[-1] <= 8


@pytest.mark.parametrize("size", [0, 12, 30, 66, 255])
def test_sizes_it_cannot_take_are_refused(size: int) -> None:
    for network in (DMFN, Discriminator):
        with pytest.raises(InputError, match=rf"multiple of 4 pixels, 16 or more, not {size}: set align.side"):
            network(size, 2)


@pytest.mark.parametrize("hidden", ["part", "all", "nothing"])
def test_what_lies_under_the_hole_changes_no_bit(hidden: str) -> None:
    image, hole = example(3, 32)
    hole = {"part": hole, "all": torch.ones_like(hole), "nothing": torch.zeros_like(hole)}[hidden]
    network = DMFN(32, 4, 2)
    other = torch.where(hole, torch.randn(image.shape, generator=rng(3)), image)
    with torch.no_grad():
        first, again = network(image, hole), network(other, hole)
    assert torch.equal(first, again)
    assert first.isfinite().all()


def test_one_picture_alone_is_as_in_a_batch_in_training_too() -> None:
    image, hole = example(4, 32)
    network = DMFN(32, 4, 2)
    with torch.no_grad():
        torch.testing.assert_close(network(image, hole)[2:3], network(image[2:3], hole[2:3]), atol=1e-4, rtol=0)


def test_it_learns_to_fill() -> None:
    """Sixty steps on slopes: brighter from one side to the other, and the box in the middle goes on with them."""
    torch.manual_seed(0)
    network = DMFN(16, 8, 2).to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(network.parameters(), 3e-3, (0.5, 0.9))
    slope = torch.linspace(-0.8, 0.8, 16).expand(1, 3, 16, 16)
    image = torch.cat([slope, slope.flip(3), slope.mT, slope.mT.flip(2)])
    hole = boxes(16, (4, 12, 4, 12)).expand(4, -1, -1, -1)
    errors = []
    for _ in range(60):
        loss = (network(image, hole) - image)[hole.expand(-1, 3, -1, -1)].abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        errors.append(loss.item())
    assert errors[-1] < 0.3 * errors[0]  # over 10 seeds 0.05 to 0.10


# --- the discriminator's crop ---


def test_crop_by_hand() -> None:
    """Of 8 x 8 pictures 4 x 4: around a box, at two corners, of a hole wider than the crop, of none, of all."""
    image = torch.arange(64.0).reshape(1, 1, 8, 8).expand(6, -1, -1, -1)
    hole = boxes(8, (3, 5, 4, 6), (0, 1, 0, 1), (7, 8, 6, 8), (2, 3, 0, 7), (0, 0, 0, 0), (0, 8, 0, 8))
    corners = crop(image, hole)[:, 0, 0, 0]
    # Top left: row (3+5-4)/2, column (4+6-4)/2; shifted inside; shifted inside; (2+3-4)//2 and (0+7-4)//2; the centre.
    expected = [8 * 2 + 3, 0, 8 * 4 + 4, 8 * 0 + 1, 8 * 2 + 2, 8 * 2 + 2]
    assert corners.tolist() == expected
    windows = [image[0, 0, c // 8 : c // 8 + 4, c % 8 : c % 8 + 4] for c in expected]
    assert torch.equal(crop(image, hole)[:, 0], torch.stack(windows)), "exact pixels"


@settings(max_examples=30)
@given(st.data())
def test_crop_holds_every_hole_that_fits(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([8, 12, 20]))
    tall, wide = (data.draw(st.integers(1, size // 2)) for _ in range(2))
    top, left = (data.draw(st.integers(0, size - side)) for side in (tall, wide))
    hole = boxes(size, (top, top + tall, left, left + wide))
    cropped = crop(hole.float(), hole)
    assert cropped.shape == (1, 1, size // 2, size // 2)
    assert cropped.sum() == tall * wide


def test_gradients_pass_through_the_crop_to_its_own_pixels() -> None:
    image = torch.zeros(2, 3, 8, 8, requires_grad=True)
    crop(image, boxes(8, (0, 2, 0, 2), (6, 8, 6, 8))).sum().backward()
    expected = torch.zeros(2, 3, 8, 8)
    expected[0, :, :4, :4] = expected[1, :, 4:, 4:] = 1
    assert torch.equal(image.grad, expected)


# --- the discriminator ---


def test_the_reports_discriminator() -> None:
    """At 256 six global and five local convolutions of 5x5, each branch to 512, one logit of both."""
    network = Discriminator(256, 64)
    channels = [3, 64, 128, 256, 512, 512, 512]
    assert [len(network.whole), len(network.local)] == [6, 5]

    def convolutions(steps: int) -> int:
        return sum(25 * above * below + 2 * below for above, below in pairwise(channels[: steps + 1]))

    joined = 2 * (512 * 4 * 4 * 512 + 512) + 2 * 512 + 1
    assert count(network) == convolutions(6) + convolutions(5) + joined


@pytest.mark.parametrize(("size", "depths"), [(16, (2, 1)), (32, (3, 2)), (64, (4, 3)), (128, (5, 4))])
def test_depth_follows_size(size: int, depths: tuple[int, int]) -> None:
    network = Discriminator(size, 2)
    assert (len(network.whole), len(network.local)) == depths
    logits, maps = network(*example(3, size))
    assert logits.shape == (3,)
    assert [tuple(m.shape[2:]) for m in maps] == [(size >> i, size >> i) for i in range(2, 2 + depths[1])]
    (logits.sum() + sum(m.mean() for m in maps)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


def test_the_local_maps_see_the_crop_alone_and_the_verdict_everything() -> None:
    network = Discriminator(16, 4).eval()
    image, hole = example(1, 16)[0], boxes(16, (0, 4, 0, 4))  # the crop is the upper left quarter
    elsewhere = image.clone()
    elsewhere[..., 12, 12] += 1
    inside = image.clone()
    inside[..., 2, 2] += 1
    with torch.no_grad():
        (logit, maps), (far, same), (near, others) = (network(x, hole) for x in (image, elsewhere, inside))
    assert all(torch.equal(a, b) for a, b in zip(maps, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(maps, others, strict=True))
    assert logit != far
    assert logit != near


# --- the generator's terms ---


def judged() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[list, list], tuple[list, list]]:
    """Random pictures, logits, local maps and VGG features, each of a completed batch and of the truth."""

    def features(seed: int) -> list[Tensor]:
        shapes = [(2, 4, 8, 8), (2, 4, 4, 4), (2, 4, 2, 2), (2, 4, 2, 2), (2, 4, 1, 1)]
        return [torch.rand(shape, generator=rng(seed + i)) for i, shape in enumerate(shapes)]

    pictures = torch.rand(2, 2, 3, 8, 8, generator=rng(0))
    logits = torch.randn(2, 2, generator=rng(1))
    return (pictures[0], pictures[1]), (logits[0], logits[1]), (features(2), features(7)), (features(12), features(17))


def params(**changes: object) -> Params:
    return Params(dataset="x", **changes)


def test_the_total_is_the_weighted_sum_of_its_terms() -> None:
    """With the report's weights: 1, lambda 25 twice, eta 5, mu 0.003, gamma 1."""
    total, parts = generator_loss(params(perceptual_weights="random"), *judged())
    assert set(parts) == set(TERMS)
    by_hand = parts["l1"] + 25 * (parts["self_guided"] + parts["vgg_matching"]) + 5 * parts["d_matching"]
    torch.testing.assert_close(total, by_hand + 0.003 * parts["adversarial"] + parts["alignment"])


@pytest.mark.parametrize("term", TERMS)
def test_leaving_one_term_out_leaves_out_only_it(term: str) -> None:
    _, full = generator_loss(params(perceptual_weights="random"), *judged())
    total, parts = generator_loss(params(perceptual_weights="random", **{term: 0.0}), *judged())
    assert set(parts) == set(TERMS) - {term}
    assert all(torch.equal(value, full[name]) for name, value in parts.items())
    weights = {"l1": 1, "self_guided": 25, "vgg_matching": 25, "d_matching": 5, "adversarial": 0.003, "alignment": 1}
    torch.testing.assert_close(total, sum(weights[name] * value for name, value in parts.items()))


def test_without_vgg_its_three_terms_are_left_out() -> None:
    pictures, logits, maps, _ = judged()
    _, parts = generator_loss(params(), pictures, logits, maps, None)
    assert set(parts) == set(TERMS) - set(OF_VGG)


def test_alignment_is_of_the_fourth_layer_and_guidance_of_the_first_two() -> None:
    pictures, logits, maps, (output, truth) = judged()
    for term, layers in {"alignment": {3}, "self_guided": {0, 1}, "vgg_matching": {0, 1, 2, 3, 4}}.items():
        alone = params(perceptual_weights="random", **(dict.fromkeys(TERMS, 0.0) | {term: 1.0}))
        found = generator_loss(alone, pictures, logits, maps, (output, truth))[0]
        for layer in range(5):
            changed = [f.flip(1) * 2 if i == layer else f for i, f in enumerate(output)]
            again = generator_loss(alone, pictures, logits, maps, (changed, truth))[0]
            assert (again != found) == (layer in layers), (term, layer)


# --- the stage ---


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pictures of 16 pixels, two in three with landmarks."""
    folder = tmp_path_factory.mktemp("aligned")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)
    with table.writing_pictures(folder / "train.arrow", (16, 16), table.ALIGNED) as writer:
        for i, picture in enumerate(pixels):
            eyes = [5.0, 6.0, 10.0, 6.0, 8.0, 9.0, 6.0, 12.0, 10.0, 12.0] if i % 3 else None
            writer.append(picture, f"id{i}", f"{i}.png", None, eyes)
    return folder


SMALL = {"dataset": "x", "steps": 4, "batch": 8, "width": 4, "blocks": 1, "d_width": 4, "ema": 0.5}
SMALL |= {"log_every": 2, "sample_every": 4}


def command(aligned: Path, home: Path, **changes: object) -> subprocess.CompletedProcess[str]:
    values = {"runtime": {"threads": 1}, "train_dmfn": {"a": SMALL | changes}}
    (home / "params.yaml").write_text(json.dumps(values))
    line = ["a", "--params", str(home / "params.yaml")]
    line += ["--train", str(aligned / "train.arrow"), "--also", str(NO_TABLE), "--start", str(NO_CHECKPOINT)]
    line += [part for key, name in OUTPUTS.items() for part in (f"--{key}", str(home / "out" / name))]
    places = {"PALIMPSEST_STATE": str(home / "state"), "PALIMPSEST_RECORDS": str(home / "records")}
    return forked.run("stages.train_dmfn", line, Path.cwd(), {**os.environ, **places})


def history(home: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((home / "out" / OUTPUTS["history"]).read_text().splitlines()))


def test_the_stage_leaves_its_outputs(aligned: Path, tmp_path: Path) -> None:
    """Eye bars and boxes by default: pictures without landmarks get a box."""
    run("train_dmfn", aligned, tmp_path, SMALL)
    rows = history(tmp_path)
    assert [row["step"] for row in rows] == ["2", "4"]
    assert set(rows[0]) == {"step", "l1", "d_matching", "adversarial", "d_real", "d_fake"}
    assert [p.name for p in (tmp_path / "out" / "samples").iterdir()] == ["0000004.png"]
    found = checkpoint.Checkpoint(tmp_path / "out" / OUTPUTS["model"])
    assert found.inputs["network"] == "dmfn"
    Network(**found.inputs["arguments"]).load_state_dict(found.tensors("network"))
    Discriminator(16, 4).load_state_dict(found.tensors("discriminator"))


def test_every_term_is_logged_in_bf16_with_vggs_features(aligned: Path, tmp_path: Path) -> None:
    run("train_dmfn", aligned, tmp_path, SMALL | {"perceptual_weights": "random", "steps": 2}, precision="bf16")
    assert set(history(tmp_path)[0]) == {"step", "d_real", "d_fake", *TERMS}


def test_losses_are_of_the_composited_picture(aligned: Path, tmp_path: Path) -> None:
    """With one pixel in 64 missing the mean error is at most a 32nd; the output's own would be near 1."""
    changes = {"holes": {"pixels": {"fraction": 1 / 64}}, "d_matching": 0.0, "adversarial": 0.0, "combine": "sum"}
    run("train_dmfn", aligned, tmp_path, SMALL | changes)
    assert set(history(tmp_path)[0]) == {"step", "l1", "d_real", "d_fake"}
    assert all(0 < float(row["l1"]) <= 2 / 64 for row in history(tmp_path))


def test_bars_alone_need_landmarks_of_every_picture(aligned: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="add a kind of hole that needs none to `holes`"):
        run("train_dmfn", aligned, tmp_path, SMALL | {"holes": {"eye_bar": {}}})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"combine": "max"}, "train_dmfn.a.combine: input should be 'dense' or 'sum'"),
        ({"eta": 5.0}, "unknown key 'train_dmfn.a.eta'"),
        ({"l1": -1.0}, "train_dmfn.a.l1"),
        ({"l1": 0.0, "d_matching": 0.0, "adversarial": 0.0}, "nothing to train by: give one of l1, self_guided"),
    ],
)
def test_mistakes_end_in_one_line(aligned: Path, tmp_path: Path, changes: dict[str, object], words: str) -> None:
    done = command(aligned, tmp_path, **changes)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()

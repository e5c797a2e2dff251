"""A parameter that another one leaves nothing to do is refused; its default, and what turns it off, are not."""

from importlib import import_module

import pytest

from stages.runs import params
from stages.runs.errors import InputError

NONE = "stages/models/no_checkpoint.txt"
NETWORK = {"dataset": "x", "network": "dmfn", "checkpoint": "a.safetensors"}
FACE = {"mode": "face", "side": 64, "detector": "annotations", "detector_model": "none"}
SCORING = {"lpips": "none", "bootstrap": 10, "seed": 1}
HINGE, LIU = {"objective": "hinge"}, {"loss": "liu"}
NO_VGG = {"loss": "liu", "terms": {"perceptual": 0, "style": 0}}
NO_TERM = {"self_guided": 0, "vgg_matching": 0, "alignment": 0}


def baseline(method: str) -> dict[str, object]:
    return {"dataset": "x", "network": "classical", "method": method, "checkpoint": NONE}


# stage, what leaves the next parameter idle; the parameter; a value that asks for something; one that does not (its
# default, or off); how the line names the cause; and what else would put it to use
CASES = [
    ("train_dcgan", HINGE, "saturating", True, False, "objective: hinge", {"objective": "bce"}),
    ("train_dcgan", HINGE, "label_flip", 0.1, 0.0, "objective: hinge", {"objective": "bce"}),
    ("train_autoencoder", {}, "terms", {"tv": 1.0}, {}, "loss: mse", LIU),
    ("train_autoencoder", {}, "perceptual_weights", "random", "none", "loss: mse", LIU),
    ("train_partial_conv", LIU, "hole_weight", 2.0, 1.0, "loss: liu", {"loss": "mse"}),
    (
        "train_partial_conv", NO_VGG, "perceptual_weights", "random", "none", "terms: {perceptual: 0, style: 0}",
        {"terms": {"style": 0}},
    ),
    ("train_partial_conv", {}, "finetune_lr", 1e-4, 5e-5, "finetune_from: 1", {"finetune_from": 0.9}),
    ("train_context_encoder", {"objective": "gan"}, "kl", 1.0, 0, "objective: gan", {"objective": "vae"}),
    *(
        ("train_context_encoder", {}, name, asked, default, "objective: vae", {"objective": "gan"})
        for name, asked, default in (
            ("reconstruction", 0.9, 0.999), ("adversarial", 0.1, 0.0), ("lr_ratio", 2.0, 10.0), ("d_width", 8, None),
        )
    ),
    ("train_context_encoder", {"overlap": 0}, "overlap_weight", 2.0, 10.0, "overlap: 0", {"overlap": 1}),
    *(
        ("train_dmfn", {}, name, 3.0, 0, "perceptual_weights: none", {"perceptual_weights": "random"})
        for name in ("self_guided", "vgg_matching", "alignment")
    ),
    (
        "train_dmfn", NO_TERM, "perceptual_weights", "imagenet", "none", "self_guided, vgg_matching, alignment: 0",
        {"alignment": 1},
    ),
    ("search", {"model": "a", "context": "plain"}, "window", 9, 7, "context: plain", {"context": "weighted"}),
    ("infer", baseline("telea"), "batch", 8, 32, "method: telea", NETWORK | {"method": None}),
    ("infer", baseline("mean"), "radius", 5.0, 3.0, "method: mean", {"method": "navier_stokes"}),
    ("infer", NETWORK, "radius", 5.0, 3.0, "network: dmfn", baseline("telea")),
    ("blend", {"system": "a"}, "iterations", 9, 500, "method: exact", {"method": "sobel"}),
    ("blend", {"system": "a", "method": "exact"}, "lr", 0.1, 0.01, "method: exact", {"method": "coupled"}),
    (
        "evaluate", SCORING, "perceptual_weights", "imagenet", "none", "lpips: none", {"lpips": "alex"},
    ),
    ("align", FACE, "score_threshold", 0.5, 0.9, "detector: annotations", {"detector": "yunet"}),
    ("align", FACE | {"mode": "centre"}, "max_outside", 0.5, 0.25, "mode: centre", {"mode": "face"}),
    ("align", FACE | {"mode": "centre"}, "min_frontality", 0.9, 0.5, "mode: centre", {"mode": "face"}),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "given", "name", "asked", "silent", "cause", "use"), CASES, ids=str)
def test_what_would_do_nothing_is_refused(
    stage: str, given: dict, name: str, asked: object, silent: object, cause: str, use: dict
) -> None:
    kind = import_module(f"stages.{stage}").Params
    dataset = {} if stage in ("evaluate", "align") else {"dataset": "x"}
    with pytest.raises(InputError) as refused:
        params.build(kind, dataset | given | {name: asked}, f"{stage}.a")
    assert str(refused.value) == f"params.yaml: {stage}.a: {name} would do nothing with {cause}: leave it out"
    assert getattr(params.build(kind, dataset | given | {name: silent}, f"{stage}.a"), name) == silent
    assert getattr(params.build(kind, dataset | given | use | {name: asked}, f"{stage}.a"), name) == asked


def test_what_labels_are_smoothed_by_default_may_be_hinge() -> None:
    """`label_smoothing` is on by default and a hinge has no labels: nobody has asked for it, nor is off a mistake."""
    kind = import_module("stages.train_dcgan").Params
    for changes in ({}, {"label_smoothing": True}, {"label_smoothing": False}):
        assert params.build(kind, {"dataset": "x", **HINGE, **changes}, "a").objective == "hinge"


def test_a_baseline_reads_no_checkpoint() -> None:
    kind, given = import_module("stages.infer").Params, baseline("mean") | {"checkpoint": "a.safetensors"}
    with pytest.raises(InputError, match=r"checkpoint: a baseline reads none: stages/models/no_checkpoint\.txt"):
        params.build(kind, given, "infer.a")


def test_a_detector_of_centre_crops_is_refused() -> None:
    kind = import_module("stages.align").Params
    with pytest.raises(InputError, match="detector: haar would do nothing with mode: centre: set annotations"):
        params.build(kind, FACE | {"mode": "centre", "detector": "haar"}, "align.a")
    assert params.build(kind, FACE | {"mode": "centre"}, "align.a").detector == "annotations"

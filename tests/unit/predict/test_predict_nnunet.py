"""What nnU-Net v2 calls the weights, and checkpoints that are not what they say."""

from dataclasses import replace

import msgspec
import pytest
import torch

from autoseg.errors import ArtifactError, SettingError
from autoseg.networks.unet import build_network
from autoseg.predict.nnunet import NnunetFold, find_folds, manifest_of, read_checkpoint, theirs_of, to_ours

PLAIN = {
    "encoder.0.first.convolution.weight": "encoder.stages.0.0.convs.0.conv.weight",
    "encoder.1.rest.0.norm.bias": "encoder.stages.1.0.convs.1.norm.bias",
    "up.0.bias": "decoder.transpconvs.0.bias",
    "decoder.1.first.convolution.bias": "decoder.stages.1.convs.0.conv.bias",
    "decoder.1.rest.1.norm.weight": "decoder.stages.1.convs.2.norm.weight",
    "heads.1.weight": "decoder.seg_layers.1.weight",
}
RESIDUAL = {
    "stem.convolution.weight": "encoder.stem.convs.0.conv.weight",
    "stem.norm.bias": "encoder.stem.convs.0.norm.bias",
    "encoder.0.0.first.convolution.weight": "encoder.stages.0.blocks.0.conv1.conv.weight",
    "encoder.0.0.first.norm.weight": "encoder.stages.0.blocks.0.conv1.norm.weight",
    "encoder.1.2.convolution.bias": "encoder.stages.1.blocks.2.conv2.conv.bias",
    "encoder.1.2.norm.bias": "encoder.stages.1.blocks.2.conv2.norm.bias",
    "encoder.0.0.shortcut.0.weight": "encoder.stages.0.blocks.0.skip.0.conv.weight",
    "encoder.1.0.shortcut.0.weight": "encoder.stages.1.blocks.0.skip.1.conv.weight",
    "encoder.1.0.shortcut.1.bias": "encoder.stages.1.blocks.0.skip.1.norm.bias",
}


@pytest.fixture
def configuration(build_configuration):
    return build_configuration((8, 8, 8))


@pytest.fixture
def residual(build_configuration):
    return build_configuration((8, 8, 8), n_conv_per_stage=None, n_blocks_per_stage=(1, 3))


@pytest.fixture
def fold(configuration):
    weights = build_network(configuration, 1, 2).state_dict()
    named = {theirs_of(name, configuration): tensor for name, tensor in weights.items()}
    return NnunetFold("2", "3d_fullres", (0, 2), named, "cuda")


def saved(path, fold, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "network_weights": {f"module.{name}": tensor for name, tensor in fold.weights.items()},
        "inference_allowed_mirroring_axes": fold.mirror_axes,
        "init_args": {"configuration": fold.configuration_name, "device": torch.device(fold.device)},
    }
    torch.save({**content, **changes}, path)
    return path


def test_tensors_have_their_names(configuration, residual):
    for ours, theirs in PLAIN.items():
        assert theirs_of(ours, configuration) == theirs
    for ours, theirs in RESIDUAL.items():
        assert theirs_of(ours, residual) == theirs
    # The first block's shortcut has no weights where the stem gives as many channels.
    assert set(RESIDUAL) - set(build_network(residual, 1, 2).state_dict()) == {"encoder.0.0.shortcut.0.weight"}


def test_a_checkpoint_comes_back_by_our_names(fold, configuration, build_plan, tmp_path):
    path = saved(tmp_path / "fold_2" / "checkpoint_final.pth", fold)
    assert find_folds(tmp_path, None) == [path]
    again = read_checkpoint(path)
    assert (again.name, again.mirror_axes, again.device) == ("2", (0, 2), "cuda")
    weights = to_ours(again, configuration, 1, 2)
    network = build_network(configuration, 1, 2)
    network.load_state_dict(weights)
    for name, tensor in weights.items():
        assert torch.equal(tensor, fold.weights[theirs_of(name, configuration)])
    manifest = manifest_of(again, build_plan({"3d_fullres": configuration}), file_ending=".nrrd", number=7)
    assert (manifest.fold, manifest.finished, manifest.configuration.mirror_axes) == (2, True, (0, 2))
    assert manifest.naming.image_suffixes == ("_0000.nrrd",)
    assert manifest.num_parameters == sum(parameter.numel() for parameter in network.parameters())


def test_a_network_that_the_plan_does_not_describe_is_refused(fold, configuration):
    name = "encoder.stages.0.0.convs.0.conv.weight"
    others = [
        ({key: tensor for key, tensor in fold.weights.items() if key != name}, f"missing: {name}"),
        ({**fold.weights, "transformer.weight": torch.zeros(1)}, "unknown: transformer.weight"),
        ({**fold.weights, name: torch.zeros(4, 2, 3, 3, 3)}, "(4, 2, 3, 3, 3), (4, 1, 3, 3, 3) by the plan"),
    ]
    for weights, found in others:
        with pytest.raises(ArtifactError, match=r"not the one that plans\.json describes") as caught:
            to_ours(replace(fold, weights=weights), configuration, 1, 2)
        assert found in str(caught.value)


class Trap:
    def __reduce__(self):
        return (print, ("trapped",))


def test_code_in_a_checkpoint_is_not_run(fold, tmp_path, capsys):
    path = saved(tmp_path / "fold_0" / "checkpoint_final.pth", fold, logging=Trap())
    with pytest.raises(ArtifactError, match="holds more than numbers"):
        read_checkpoint(path)
    assert "trapped" not in capsys.readouterr().out


def test_other_files_are_refused(fold, tmp_path):
    path = tmp_path / "fold_0" / "checkpoint_final.pth"
    others = [
        {"init_args": {}},
        {"init_args": {"configuration": "2d", "device": "gpu!"}},
        {"network_weights": {"a": 1.0}},
        {"inference_allowed_mirroring_axes": ("x",)},
    ]
    for changes in others:
        saved(path, fold, **changes)
        with pytest.raises(ArtifactError, match="no checkpoint of nnU-Net v2"):
            read_checkpoint(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="can't be read"):
        read_checkpoint(path)


def test_folds_are_found(fold, tmp_path):
    with pytest.raises(SettingError, match="lacks checkpoints"):
        find_folds(tmp_path, None)
    paths = {name: saved(tmp_path / f"fold_{name}" / "checkpoint_final.pth", fold) for name in ("all", "0", "3")}
    assert find_folds(tmp_path, None) == [paths["0"], paths["3"]]
    assert find_folds(tmp_path, ["all"]) == [paths["all"]]
    assert find_folds(tmp_path, ["3", "3"]) == [paths["3"]]
    with pytest.raises(SettingError, match="lacks checkpoints") as caught:
        find_folds(tmp_path, ["0", "1"])
    assert "fold_1" in caught.value.where
    with pytest.raises(SettingError, match="no part of a cross-validation"):
        find_folds(tmp_path, ["0", "all"])


def test_folds_that_are_not_finished_are_named(fold, tmp_path, caplog):
    saved(tmp_path / "fold_0" / "checkpoint_final.pth", fold)
    saved(tmp_path / "fold_1" / "checkpoint_latest.pth", fold)
    assert len(find_folds(tmp_path, None)) == 1
    assert "fold_1" in caplog.text


def test_a_configuration_that_the_plan_lacks_is_refused(fold, build_plan):
    with pytest.raises(ArtifactError, match=r"plans\.json lacks"):
        manifest_of(replace(fold, configuration_name="2d"), build_plan(), file_ending=".nii.gz", number=0)


def test_the_second_stage_of_a_cascade_is_refused(fold, configuration, build_plan):
    second = msgspec.structs.replace(configuration, previous_stage="3d_lowres")
    plan = build_plan({"3d_lowres": configuration, "3d_cascade_fullres": second})
    with pytest.raises(ArtifactError, match="cascade"):
        manifest_of(replace(fold, configuration_name="3d_cascade_fullres"), plan, file_ending=".nii.gz", number=0)

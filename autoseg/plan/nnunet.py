"""Plans as nnU-Net v2 writes them: nnUNetPlans.json, from a plan and to one."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from autoseg.artifacts.base import decode, digest, explain
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.plan import Configuration, Norm, Plan, PresetName
from autoseg.errors import ArtifactError, SettingError
from autoseg.images.endings import KINDS
from autoseg.plan.decide import RULES
from autoseg.plan.mirroring import in_plane, mirror_axes
from autoseg.plan.patch import memory_proxy
from autoseg.plan.presets import PRESETS

Json = dict[str, Any]
PLANNERS: dict[PresetName, str] = {
    "plain": "ExperimentPlanner",
    "resenc-legacy": "ResEncUNetPlanner",
    "resenc-m": "nnUNetPlannerResEncM",
    "resenc-l": "nnUNetPlannerResEncL",
    "resenc-xl": "nnUNetPlannerResEncXL",
}
ENCODERS = {False: "n_conv_per_stage", True: "n_blocks_per_stage"}
SCHEMES = {
    "ct": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
    "none": "NoNormalization",
}
UNETS = "dynamic_network_architectures.architectures.unet"
NETWORKS = {False: "PlainConvUNet", True: "ResidualEncoderUNet"}
CONVOLUTIONS = {2: "torch.nn.modules.conv.Conv2d", 3: "torch.nn.modules.conv.Conv3d"}
# By norm and number of axes; the others need more arguments than nnU-Net gives.
NORMS: dict[Norm, dict[int, str]] = {
    "instance": {d: f"torch.nn.modules.instancenorm.InstanceNorm{d}d" for d in (2, 3)},
    "batch": {d: f"torch.nn.modules.batchnorm.BatchNorm{d}d" for d in (2, 3)},
}
# What autoseg's networks always have; a plan with anything else would be another network.
FIXED = {
    "conv_bias": True,
    "norm_op_kwargs": {"eps": 1e-05, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
# What of a network's arguments a plan of ours has too.
SIZED = ("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder")
PREPROCESSOR, LABEL_MANAGER = "DefaultPreprocessor", "LabelManager"
STAGES = ("previous_stage", "next_stage")
RESAMPLE = "resample_data_or_seg_to_shape"
COPIED = ("patch_size", "batch_size", "median_image_size_in_voxels", "spacing", "use_mask_for_norm", "batch_dice")


def to_nnunet(plan: Plan, *, dataset_name: str, plans_name: str, file_ending: str) -> Json:
    """The content of an nnUNetPlans.json that nnU-Net v2 trains from.

    Parameters
    ----------
    plan : Plan
    dataset_name : str
        As nnU-Net has it: the folder of the preprocessed data (``Dataset004_Hippocampus``).
    plans_name : str
        Name of the file without its ending, which nnU-Net's ``-p`` takes.
    file_ending : str
        Of the images, which says how nnU-Net reads them.

    Raises
    ------
    SettingError
        A network has a norm or attention that nnU-Net's plans can't name.

    Notes
    -----
    The format is that of release 2.8.1. What nnU-Net's plans have no place for is lost: the training recipe, deep
    supervision, which nnU-Net always has, and the axes that may be mirrored, of which nnU-Net mirrors all.
    """
    flat = all(len(configuration.patch_size) == 2 for configuration in plan.configurations.values())
    statistics = {str(number): msgspec.to_builtins(each) for number, each in enumerate(plan.intensities)}
    return {
        "dataset_name": dataset_name,
        "plans_name": plans_name,
        "original_median_spacing_after_transp": list(plan.original_median_spacing),
        "original_median_shape_after_transp": [int(edge) for edge in plan.original_median_shape],
        "image_reader_writer": _reader(file_ending, flat=flat),
        "transpose_forward": list(plan.transpose_forward),
        "transpose_backward": list(plan.transpose_backward),
        "configurations": {name: _configuration_to(plan, name, plans_name) for name in plan.configurations},
        "experiment_planner_used": PLANNERS[plan.preset],
        "label_manager": LABEL_MANAGER,
        "foreground_intensity_properties_per_channel": statistics,
    }


def dataset_name(out: Path, raw: Path | None) -> str:
    """What nnU-Net calls the dataset: the folder that the plans lie in, or the raw one, where it is named so."""
    names = [out.resolve().parent.name, *([raw.resolve().name] if raw is not None else [])]
    return next((name for name in names if re.fullmatch(r"Dataset\d{3}_.+", name)), names[-1])


def _reader(file_ending: str, *, flat: bool) -> str:
    kind = KINDS.get(file_ending.lower(), "volume")
    if kind == "picture" or (kind == "tiff" and flat):
        return "NaturalImage2DIO"
    return "Tiff3DIO" if kind == "tiff" else "SimpleITKIO"


def _configuration_to(plan: Plan, name: str, plans_name: str) -> Json:
    configuration = plan.configurations[name]
    full = plan.configurations.get("3d_fullres")
    before = configuration.previous_stage
    if full is not None and before and replace(full, previous_stage=before) == configuration:
        # It shares the preprocessed data too.
        return {"inherits_from": "3d_fullres", "previous_stage": before}
    for key, allowed in (("norm", tuple(NORMS)), ("attention", ("none",))):
        if getattr(configuration, key) not in allowed:
            raise SettingError(
                "nnU-Net's plans can't express a network",
                where=f"configurations.{name}.{key}",
                found=getattr(configuration, key),
                allowed=", ".join(allowed),
                hint="set it with --set, or leave --write-nnunet out",
            )
    d = len(configuration.patch_size)
    how = configuration.resampling
    functions: Json = {}
    for kind, order, order_z in (
        ("data", how.data_order, how.data_order_z),
        ("seg", how.label_order, how.label_order_z),
        ("probabilities", how.probabilities_order, how.probabilities_order_z),
    ):
        functions[f"resampling_fn_{kind}"] = RESAMPLE
        functions[f"resampling_fn_{kind}_kwargs"] = {
            "is_seg": kind == "seg",
            "order": order,
            "order_z": order_z,
            "force_separate_z": how.force_separate_z,
        }
    network = {
        "n_stages": configuration.n_stages,
        "features_per_stage": configuration.features_per_stage,
        "conv_op": CONVOLUTIONS[d],
        "kernel_sizes": configuration.kernel_sizes,
        "strides": configuration.strides,
        ENCODERS[configuration.residual]: configuration.encoder_blocks,
        "n_conv_per_stage_decoder": configuration.n_conv_per_stage_decoder,
        "norm_op": NORMS[configuration.norm][d],
        **FIXED,
    }
    stages = {key: getattr(configuration, key) for key in STAGES if getattr(configuration, key)}
    return {
        "data_identifier": f"{plans_name}_{name}",
        "preprocessor_name": PREPROCESSOR,
        **{key: getattr(configuration, key) for key in COPIED},
        "normalization_schemes": [SCHEMES[scheme] for scheme in configuration.normalization_schemes],
        **functions,
        "architecture": {
            "network_class_name": f"{UNETS}.{NETWORKS[configuration.residual]}",
            "arch_kwargs": network,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        **stages,
    }


def from_nnunet(content: Json, fingerprint: Fingerprint, where: str) -> Plan:
    """A plan from the content of an nnUNetPlans.json.

    Parameters
    ----------
    content : dict
        Of releases 2.0 to 2.8.
    fingerprint : Fingerprint
        Names the channels and labels, which nnU-Net's plans don't, and says which axes may be mirrored.
    where : str
        The file, for messages.

    Raises
    ------
    ArtifactError
        The file lacks a key, or asks for something that autoseg has not.
    """
    try:
        return _plan_from(content, fingerprint, where)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            "a file is no plan of nnU-Net v2",
            where=where,
            found=f"no {error}" if isinstance(error, KeyError) else str(error),
            allowed="an nnUNetPlans.json as nnUNetv2_plan_experiment writes it",
        ) from error


def _plan_from(content: Json, fingerprint: Fingerprint, where: str) -> Plan:
    statistics = content.get("foreground_intensity_properties_per_channel") or content.get(
        "foreground_intensity_properties_by_modality"
    )
    if statistics and len(statistics) != len(fingerprint.channel_names):
        raise ArtifactError(
            "a plan of nnU-Net is for another number of channels",
            where=f"{where}, foreground_intensity_properties_per_channel",
            found=len(statistics),
            allowed=f"{len(fingerprint.channel_names)}: {', '.join(fingerprint.channel_names)}",
        )
    intensities = (
        [statistics[str(number)] for number in range(len(fingerprint.channel_names))]
        if statistics
        else msgspec.to_builtins(fingerprint.intensities)
    )
    resolved = {name: _resolved(content["configurations"], name) for name in content["configurations"]}
    residual = any(_architecture(each, where)["residual"] for each in resolved.values())
    presets = {name: preset for preset, name in PLANNERS.items()}
    preset = presets.get(str(content.get("experiment_planner_used")), "resenc-legacy" if residual else "plain")
    if content.get("label_manager", LABEL_MANAGER) != LABEL_MANAGER:
        raise _unknown(f"{where}, label_manager", content["label_manager"], LABEL_MANAGER)
    forward = content["transpose_forward"]
    mirror = mirror_axes(fingerprint.labels, [case.geometry for case in fingerprint.cases], forward)
    fields = {
        "inputs_sha256": digest(RULES, json.dumps(content, sort_keys=True), fingerprint),
        "preset": preset,
        "gpu_memory_gb": PRESETS[preset].reference_gb,
        "channel_names": fingerprint.channel_names,
        "labels": fingerprint.labels,
        "regions_class_order": fingerprint.regions_class_order,
        "transpose_forward": forward,
        "transpose_backward": content["transpose_backward"],
        "original_median_spacing": content["original_median_spacing_after_transp"],
        "original_median_shape": content["original_median_shape_after_transp"],
        "intensities": intensities,
        "configurations": {
            name: _configuration_from(each, mirror, f"{where}, configurations.{name}")
            for name, each in resolved.items()
        },
    }
    plan = decode(msgspec.json.encode(fields), Plan, where=where)
    # Now that patches and strides are known to fit each other.
    num_labels, limits = len(plan.labels), PRESETS[preset]
    configurations = {
        name: replace(each, memory_proxy=memory_proxy(each.patch_size, each.strides, num_labels, limits))
        for name, each in plan.configurations.items()
    }
    return replace(plan, configurations=configurations)


def _resolved(configurations: Json, name: str, seen: tuple[str, ...] = ()) -> Json:
    """A configuration with what it inherits."""
    own: Json = configurations[name]
    parent = own.get("inherits_from")
    if parent is None or parent in seen:
        return dict(own)
    return _resolved(configurations, parent, (*seen, name)) | own


def _architecture(configuration: Json, where: str) -> Json:
    """Network class and arguments, also from plans of releases before 2.3, which had them in other words."""
    if "architecture" in configuration:
        stated = configuration["architecture"]
        kind, arguments = stated["network_class_name"].rpartition(".")[2], stated["arch_kwargs"]
        d = len(configuration["patch_size"])
        unknown = sorted(set(arguments) - {*FIXED, *SIZED, *ENCODERS.values(), "conv_op", "norm_op"})
        if unknown:
            raise _unknown(f"{where}, architecture.arch_kwargs", ", ".join(unknown), "none of these")
        for key, allowed in {**FIXED, "conv_op": CONVOLUTIONS[d]}.items():
            found = arguments.get(key, allowed)
            if found != allowed and _last(found) != _last(allowed):
                raise _unknown(f"{where}, architecture.arch_kwargs.{key}", found, allowed)
        norm = _norm(arguments, d, where)
    else:
        kind, norm = configuration["UNet_class_name"], "instance"
        encoder = configuration["n_conv_per_stage_encoder"]
        base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
        arguments = {
            "features_per_stage": [min(base * 2**stage, most) for stage in range(len(encoder))],
            "kernel_sizes": configuration["conv_kernel_sizes"],
            "strides": configuration["pool_op_kernel_sizes"],
            "n_conv_per_stage": encoder,
            "n_blocks_per_stage": encoder,
            "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
        }
    residual = {name: residual for residual, name in NETWORKS.items()}.get(kind)
    if residual is None:
        raise _unknown(f"{where}, network_class_name", kind, " or ".join(NETWORKS.values()))
    return {"residual": residual, "norm": norm, **arguments}


def _norm(arguments: Json, d: int, where: str) -> Norm:
    found = arguments.get("norm_op", NORMS["instance"][d])
    for norm, names in NORMS.items():
        if _last(found) == _last(names[d]):
            return norm
    raise _unknown(f"{where}, architecture.arch_kwargs.norm_op", found, " or ".join(each[d] for each in NORMS.values()))


def _last(path: object) -> str:
    """The name of a class, which older releases give with another path."""
    return str(path).rpartition(".")[2]


def _configuration_from(stated: Json, mirror: tuple[int, ...], where: str) -> Configuration:
    network = _architecture(stated, where)
    encoder = ENCODERS[network["residual"]]
    names = {name: scheme for scheme, name in SCHEMES.items()}
    for scheme in stated["normalization_schemes"]:
        if scheme not in names:
            raise _unknown(f"{where}, normalization_schemes", scheme, ", ".join(names))
    if stated.get("preprocessor_name", PREPROCESSOR) != PREPROCESSOR:
        raise _unknown(f"{where}, preprocessor_name", stated["preprocessor_name"], PREPROCESSOR)
    how: Json = {"force_separate_z": stated["resampling_fn_data_kwargs"]["force_separate_z"]}
    for kind, ours in (("data", "data"), ("seg", "label"), ("probabilities", "probabilities")):
        function, arguments = stated[f"resampling_fn_{kind}"], stated[f"resampling_fn_{kind}_kwargs"]
        if function != RESAMPLE:
            raise _unknown(f"{where}, resampling_fn_{kind}", function, RESAMPLE)
        if arguments["force_separate_z"] != how["force_separate_z"]:
            raise _unknown(f"{where}, resampling_fn_{kind}_kwargs", arguments, "the force_separate_z of the data")
        how |= {f"{ours}_order": arguments["order"], f"{ours}_order_z": arguments["order_z"]}
    fields: Json = {
        **{key: stated[key] for key in COPIED},
        "strides": network["strides"],
        "kernel_sizes": network["kernel_sizes"],
        "features_per_stage": network["features_per_stage"],
        "n_stages": len(network["strides"]),
        encoder: network[encoder],
        "n_conv_per_stage_decoder": network["n_conv_per_stage_decoder"],
        "norm": network["norm"],
        "normalization_schemes": [names[scheme] for scheme in stated["normalization_schemes"]],
        "mirror_axes": mirror if len(stated["patch_size"]) == 3 else in_plane(mirror),
        "resampling": how,
        "memory_proxy": 0.0,
        **{key: stated[key] for key in STAGES if key in stated},
    }
    try:
        return msgspec.convert(fields, Configuration)
    except msgspec.ValidationError as error:
        raise explain(error, Configuration, where) from error


def _unknown(where: str, found: object, allowed: object) -> ArtifactError:
    return ArtifactError(
        "a plan of nnU-Net asks for something that autoseg has not", where=where, found=found, allowed=allowed
    )

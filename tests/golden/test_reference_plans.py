"""The plans in `plans/` come out of their fingerprints, byte for byte."""

import json
from pathlib import Path

import pytest

from autoseg.artifacts.base import encode, read
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.plan import Plan
from autoseg.fingerprint.nnunet import read_fingerprint
from autoseg.plan.decide import decide
from autoseg.plan.explain import explain
from autoseg.plan.nnunet import from_nnunet, to_nnunet

PLANS = Path(__file__).parents[2] / "plans"
NAMES = sorted(file.parent.name for file in PLANS.glob("*/fingerprint.json"))


def test_every_set_is_there():
    real = {"hippocampus", "sts_multi", "openkbp_ct", "sts_pet", "axon_sem", "wbc1"}
    assert real < set(NAMES)
    assert len(set(NAMES) - real) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_is_made_again(name):
    # `python plans/generate.py` writes them anew; CHANGELOG.md says why they changed.
    fingerprint = read(PLANS / name / "fingerprint.json", Fingerprint)
    assert encode(fingerprint) == (PLANS / name / "fingerprint.json").read_bytes()
    decisions = decide(fingerprint)
    assert encode(decisions.plan) == (PLANS / name / "plan.json").read_bytes()
    assert explain(fingerprint, decisions) == (PLANS / name / "plan.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_goes_through_nnunets_file(name):
    fingerprint = read_fingerprint(PLANS / name / "fingerprint.json", None)
    plan = read(PLANS / name / "plan.json", Plan)
    content = to_nnunet(plan, dataset_name="Dataset001_X", plans_name="nnUNetPlans", file_ending=".nii.gz")
    back = from_nnunet(json.loads(json.dumps(content)), fingerprint, name)
    assert back.configurations == plan.configurations

"""The framework's own random numbers: seeded, restorable, refusing what is no seed."""

import json

import pytest

import tinynet as tn
from tinynet import random


def test_same_seed_same_numbers():
    tn.manual_seed(3)
    a = random.generator().random(4).tolist()
    tn.manual_seed(3)
    assert random.generator().random(4).tolist() == a


def test_state_survives_json():
    random.generator().random()
    state = json.loads(json.dumps(random.get_state()))
    a = random.generator().random()
    random.set_state(state)
    assert random.generator().random() == a


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None, True])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match="manual_seed: seed is"):
        tn.manual_seed(seed)

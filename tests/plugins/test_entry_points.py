# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Declared, installed and written calibrators are the same ones."""

import dataclasses
import importlib
import inspect
import pkgutil
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import calibrators
from qkit.calibration.protocol import Calibrator
from qkit.calibration.registry import calibrator_class, create_calibrator, list_calibrators
from qkit.testing import check_calibrator

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def declared(group):
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    return project["entry-points"][group]


def installed(group):
    return {e.name: e.value for e in entry_points(group=group) if e.dist.name == "qkit-clip"}


def written():
    """Every class in the folder that one could calibrate with, as "module:Class"."""
    targets = set()
    for info in pkgutil.walk_packages(calibrators.__path__, "calibrators."):
        module = importlib.import_module(info.name)
        targets |= {
            f"{info.name}:{name}"
            for name, cls in vars(module).items()
            if inspect.isclass(cls)
            and cls.__module__ == info.name
            and not name.startswith("_")
            and not inspect.isabstract(cls)
            and callable(getattr(cls, "calibrate", None))
        }
    return targets


NAMES = sorted(declared("qkit.calibrators"))


def test_every_class_in_the_folder_is_declared_and_nothing_else():
    targets = list(declared("qkit.calibrators").values())
    assert len(targets) == len(set(targets))
    assert set(targets) == written()


@pytest.mark.parametrize("group", ["qkit.calibrators", "qkit.recipes"])
def test_what_is_declared_is_what_is_installed(group):
    assert declared(group) == installed(group)


def test_all_of_them_are_listed():
    own = {i.name: i.target for i in list_calibrators() if i.distribution == "qkit-clip"}
    assert own == declared("qkit.calibrators")


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_contract(name):
    check_calibrator(calibrator_class(name))


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_does_in_one_line(name):
    first = inspect.getdoc(calibrator_class(name)).splitlines()[0]
    assert first.endswith(".")
    assert 20 <= len(first) <= 100


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_made_hashed_and_not_changed(name):
    calibrator = create_calibrator(name, {})
    assert isinstance(calibrator, Calibrator)
    assert calibrator == create_calibrator(name, {})
    assert len({calibrator, create_calibrator(name, {})}) == 1
    for field in dataclasses.fields(calibrator):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(calibrator, field.name, getattr(calibrator, field.name))

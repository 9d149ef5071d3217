# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Names that lead nowhere, and plug-ins that do not work."""

import pytest

import qkit
from qkit.calibration.registry import calibrator_class, create_calibrator, list_calibrators
from qkit.errors import RegistryError


def test_unknown_name_has_the_nearest_and_all():
    fact = r"^unknown method 'minmaxx'. Did you mean 'minmax'\? Known: .*minmax, mse, percentile"
    with pytest.raises(RegistryError, match=fact):
        calibrator_class("minmaxx")


def test_unknown_name_like_no_other():
    with pytest.raises(RegistryError, match=r"^unknown method 'zzzz'. Known: "):
        create_calibrator("zzzz", {})


def test_calibrate_refuses_an_unknown_method_before_it_reads_anything():
    with pytest.raises(RegistryError, match="unknown method 'entropie'"):
        qkit.calibrate("no such model", "no such data", method="entropie")


@pytest.mark.parametrize(
    ("method", "options", "fact"),
    [
        ("mse", {"step": 3}, r"'mse' has no option 'step'. Did you mean 'steps'\? It has: steps, "),
        ("mse", {"zz": 3}, r"'mse' has no option 'zz'. It has: steps, least_weight"),
        ("minmax", {"steps": 3}, r"'minmax' has no option 'steps'. It has: \(none\)"),
        ("mse", {"steps": 1}, r"'mse' refuses its options: steps = 1.*use steps >= 2"),
        ("percentile", {"percentile": 40}, r"'percentile' refuses its options: percentile = 40\."),
        ("percentile", {"percentile": "x"}, r"'percentile' refuses its options: .*'str'"),
    ],
)
def test_options_that_a_method_does_not_take(method, options, fact):
    with pytest.raises(RegistryError, match=rf"^method {fact}"):
        create_calibrator(method, options)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import no_such_package\n", "No module named 'no_such_package'"),
        ("class Other: ...\n", "has no attribute 'Boom'"),
        ("def broken(:\n", "invalid syntax"),
        ("raise RuntimeError('needs a licence')\n", "needs a licence"),
        ("raise OSError('libfoo.so is missing')\n", "libfoo.so is missing"),
        ("1 / 0\n", "division by zero"),
    ],
    ids=["missing import", "missing class", "syntax", "RuntimeError", "OSError", "any error"],
)
def test_plug_in_that_cannot_be_imported(install, code, cause):
    install("broken", "broken_module", code, {"boom": "broken_module:Boom"})
    fact = (
        rf"method 'boom' of broken cannot be imported from broken_module:Boom: .*{cause}.*\. "
        "Reinstall or uninstall broken"
    )
    with pytest.raises(RegistryError, match=fact):
        calibrator_class("boom")


def test_plug_in_whose_module_is_gone(install):
    install("broken", "broken_module", "", {"boom": "gone_module:Boom"})
    with pytest.raises(RegistryError, match=r"boom.* No module named 'gone_module'"):
        calibrator_class("boom")


@pytest.mark.parametrize(
    "code",
    [
        "class Boom: ...\n",
        "def Boom(): ...\n",
        "Boom = 3\n",
        "class Boom:\n    calibrate = 3\n",
    ],
)
def test_plug_in_that_is_no_calibrator(install, code):
    install("broken", "broken_module", code, {"boom": "broken_module:Boom"})
    fact = (
        "^method 'boom' of broken is no calibrator: broken_module:Boom has no calibrate.* "
        "Report it to the authors of broken"
    )
    with pytest.raises(RegistryError, match=fact):
        create_calibrator("boom", {})


def test_a_broken_plug_in_leaves_the_others_usable(install):
    install("broken", "broken_module", "1 / 0\n", {"boom": "broken_module:Boom"})
    assert type(create_calibrator("minmax", {})).__name__ == "MinMax"


def test_two_distributions_offer_one_name(install):
    install("first", "first_module", "", {"twin": "first_module:Twin"})
    install("second", "second_module", "", {"twin": "second_module:Twin"})
    fact = "method 'twin' is offered by (first and second|second and first). Uninstall one of them"
    with pytest.raises(RegistryError, match=fact):
        list_calibrators()
    with pytest.raises(RegistryError, match=fact):
        create_calibrator("minmax", {})


def test_one_class_found_twice_is_no_clash(install, half):
    install("again", "again_module", "", {"half": "thirdparty_calibrator:Half"})
    assert [info.name for info in list_calibrators()].count("half") == 1

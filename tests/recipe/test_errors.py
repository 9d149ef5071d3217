# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""Whatever a recipe asks for that cannot be is an error that names file, place and value."""

import pytest

from qkit.errors import RecipeError
from qkit.recipe import load_recipe, parse_recipe


def refuse(table, match):
    with pytest.raises(RecipeError, match=match):
        parse_recipe(table, "mine.toml")


def refuse_rule(rule, match):
    refuse({"rule": [{}, rule]}, match)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"sumary": "x"}, r"^mine.toml: unknown key 'sumary'. Did you mean 'summary'\? Known: "),
        (
            {"data": {"sample": 8}},
            r"^mine.toml, \[data\]: unknown key 'sample'. Did you mean 'samples'\? Known: samples,",
        ),
        (
            {"rule": [{}, {"towers": "image"}]},
            r"^mine.toml, rule 2: unknown key 'towers'. Did you mean 'tower'\? Known: match, kind",
        ),
        (
            {"rule": [{"weight": {"bit": 4}}]},
            r"^mine.toml, rule 1, weight: unknown key 'bit'. Did you mean 'bits'\? Known: bits, ",
        ),
        ({"zzz": 1}, r"^mine.toml: unknown key 'zzz'. Known: summary, seed, data, transform, ca"),
    ],
)
def test_unknown_key_names_the_file_the_place_and_the_nearest(table, match):
    refuse(table, match)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"summary": 3}, r"^mine.toml: summary = 3 is no text. Put it in quotes"),
        ({"seed": -1}, r"^mine.toml: seed = -1 is not possible. Use a whole number from 0 on"),
        ({"seed": True}, r"^mine.toml: seed = True is not possible. Use a whole number"),
        ({"data": 5}, r"^mine.toml: data = 5 is no table. Write \[data\]"),
        ({"data": {"samples": 0}}, r"^mine.toml: samples = 0 is not possible. .* from 1 on"),
        ({"data": {"samples": 1.5}}, r"^mine.toml: samples = 1.5 is not possible"),
        ({"data": {"batch_size": "a"}}, r"^mine.toml: batch_size = 'a' is not possible. .* from 1"),
        ({"calibrator": "mse"}, r"^mine.toml: calibrator = 'mse' is no table. Write \[calibrator"),
        (
            {"calibrator": {"method": 4}},
            r"^mine.toml, \[calibrator\]: method = 4 is no text. Name a calibrator",
        ),
        ({"rule": {}}, r"^mine.toml: 'rule' must be a list of tables. Write \[\[rule\]\]"),
        ({"rule": []}, r"^mine.toml: 'rule' must be a list of tables"),
        ({"rule": [3]}, r"^mine.toml.*rule"),
    ],
)
def test_value_of_the_wrong_type_or_size(table, match):
    refuse(table, match)


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        ({"match": 3}, r"^mine.toml, rule 2: match = 3 is no text"),
        ({"kind": "linar"}, r"rule 2: unknown kind 'linar'. Did you mean 'linear'\? Known: linear"),
        ({"tower": 1}, r"rule 2: unknown tower 1. Known: image, text"),
        ({"input": True}, r"rule 2, input = True is no table. Write \{ bits = 8 \}, or false"),
        ({"weight": 4}, r"^mine.toml, rule 2, weight = 4 is no table"),
        ({"ignore": "false"}, r"^mine.toml, rule 2.*ignore = 'false'"),
        ({"ignore": 1}, r"^mine.toml, rule 2.*ignore = 1"),
        ({"input": {"symmetric": "no"}}, r"^mine.toml, rule 2, input.*symmetric = 'no'"),
        ({"input": {"granularity": 3}}, r"^mine.toml, rule 2, input: .*granularity.* 3"),
    ],
)
def test_wrong_value_in_a_rule(rule, match):
    refuse_rule(rule, match)


@pytest.mark.parametrize("bits", [-4, 0, 1, 9, 32, 4.0, "4", True])
@pytest.mark.parametrize("operand", ["weight", "input", "attention"])
def test_bits_outside_2_to_8(operand, bits):
    fact = rf"^mine.toml, rule 2, {operand}: bits = {bits!r} is not possible. .* from 2 to 8"
    refuse_rule({operand: {"bits": bits}}, fact)


def test_granularity_that_is_unknown():
    fact = r"rule 2, input: unknown granularity 'chanel'. Did you mean 'channel'\? Known: tensor,"
    refuse_rule({"input": {"granularity": "chanel"}}, fact)


@pytest.mark.parametrize(
    ("operand", "granularity", "known"),
    [("weight", "token", "tensor, channel"), ("attention", "channel", "tensor, token")],
)
def test_granularity_that_the_role_cannot_have(operand, granularity, known):
    fact = (
        rf"^mine.toml, rule 2, {operand}: granularity '{granularity}' is not possible for "
        rf"{operand}. Use one of: {known}\."
    )
    refuse_rule({operand: {"granularity": granularity}}, fact)


def test_ignore_contradicts_specs():
    rule = {"ignore": True, "weight": {"bits": 4}, "attention": False}
    fact = r"^mine.toml, rule 2: ignore = true contradicts attention, weight. Keep one of the two"
    refuse_rule(rule, fact)


def test_bad_regular_expression():
    fact = r"^mine.toml, rule 2: match = 're:\(a' is no regular expression: missing \), .* Mend it"
    refuse_rule({"match": "re:(a"}, fact)


def test_missing_file(tmp_path):
    with pytest.raises(RecipeError, match=r"recipe .*/no.toml cannot be read: No such file.*path"):
        load_recipe(str(tmp_path / "no.toml"))


def test_folder_instead_of_a_file(tmp_path):
    with pytest.raises(RecipeError, match=rf"recipe {tmp_path} cannot be read: Is a directory"):
        load_recipe(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "detail"),
    [(b'summary = "x"\nseed = \n', r"\(at line 2, column 8\)"), (b'summary = "\xff"', "utf-8")],
)
def test_file_that_is_no_toml(tmp_path, content, detail):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    fact = rf"recipe {path} is no valid TOML: .*{detail}.*\. Mend that line"
    with pytest.raises(RecipeError, match=fact):
        load_recipe(str(path))


def test_errors_in_a_file_name_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[[rule]]\nmatch = 'a'\nwieght = false\n")
    with pytest.raises(RecipeError, match=rf"^{path}, rule 1: unknown key 'wieght'.*'weight'\?"):
        load_recipe(str(path))

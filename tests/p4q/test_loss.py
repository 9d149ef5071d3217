# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
"""The loss against its formulas written out, and the released code's swapped distillation."""

import pytest
import torch
import torch.nn.functional as F

from qkit.p4q.config import LossConfig
from qkit.p4q.loss import Loss, released_distance


@pytest.fixture
def logits(normal):
    """Student's and teacher's, and labels, of six images and four classes."""
    return 5 * normal(6, 4), 5 * normal(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])


def of(student, teacher, labels, **options):
    return Loss(LossConfig(**options)).of_classes(student, teacher, labels).loss


def kl(teacher, student):
    p, q = teacher.softmax(-1), student.softmax(-1)
    return (p * (p.log() - q.log())).sum(-1).mean()


def cross_entropy(student, labels):
    return -student.softmax(-1)[range(len(labels)), labels].log().mean()


def test_it_is_cross_entropy_plus_kl_from_the_teacher(logits):
    student, teacher, labels = logits
    expected = cross_entropy(student, labels) + kl(teacher, student)
    torch.testing.assert_close(of(student, teacher, labels), expected)


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_weights_and_temperature(logits, temperature):
    student, teacher, labels = logits
    found = of(student, teacher, labels, task=0.3, distill=2.0, temperature=temperature)
    distance = temperature**2 * kl(teacher / temperature, student / temperature)
    torch.testing.assert_close(found, 0.3 * cross_entropy(student, labels) + 2.0 * distance)


def test_the_distance_is_least_at_the_teacher(logits):
    _, teacher, labels = logits
    student = teacher.clone().requires_grad_()
    of(student, teacher, labels, task=0.0).backward()
    assert student.grad.abs().max() < 1e-6
    assert of(student, teacher, labels, task=0.0) < 1e-6


def test_released_it_is_the_code_with_its_arguments_swapped(logits):
    student, teacher, labels = logits
    p, q = teacher.softmax(-1), student.softmax(-1)
    wrong = (p.exp().sum(-1).log() - (p * q).sum(-1)).mean()
    torch.testing.assert_close(released_distance(student, teacher), wrong)
    expected = cross_entropy(student, labels) + wrong
    torch.testing.assert_close(of(student, teacher, labels, released=True), expected)


def test_released_the_teacher_itself_is_not_the_best_student(logits):
    """What is wrong with it: it pulls beyond the teacher's own confidence."""
    _, teacher, _ = logits
    sharp = 10 * teacher
    assert released_distance(sharp, teacher) < released_distance(teacher, teacher)
    assert kl(teacher, sharp) > kl(teacher, teacher)


def test_without_weight_the_teacher_is_not_asked(logits):
    student, teacher, labels = logits
    plain = of(student, None, labels)
    torch.testing.assert_close(plain, cross_entropy(student, labels))
    assert of(student, teacher, labels, distill=0.0) == plain


def test_accuracy_is_the_share_of_right_answers():
    student = torch.eye(4) * 9
    found = Loss(LossConfig()).of_classes(student, None, torch.tensor([0, 1, 2, 0]))
    assert found.accuracy == 0.75


def test_pairs_count_both_ways_with_both_teachers(normal):
    student, teacher = 5 * normal(4, 4), 5 * normal(4, 4)
    labels = torch.arange(4)
    ways = [
        F.cross_entropy(s, labels) + kl(t, s)
        for s, t in ((student, teacher), (student.T, teacher.T))
    ]
    found = Loss(LossConfig()).of_pairs(student, teacher)
    torch.testing.assert_close(found.loss, (ways[0] + ways[1]) / 2)
    turned = Loss(LossConfig()).of_pairs(student.T, teacher.T)
    torch.testing.assert_close(found.loss, turned.loss)
    assert found.accuracy == turned.accuracy

"""Losses against values worked out by hand."""

import math

import pytest
import torch

from train.losses import dpo, max_z_loss, sequence_log_probability, token_nats, z_loss


def test_token_nats_are_minus_log_of_the_softmax_of_the_target() -> None:
    logits = torch.tensor([[[math.log(1.0), math.log(3.0)]]])
    nats = token_nats(logits, torch.tensor([[1]]))
    torch.testing.assert_close(nats, torch.tensor([[-math.log(0.75)]]))


def test_a_sequence_log_probability_sums_the_masked_targets_only() -> None:
    logits = torch.zeros(1, 3, 4)
    mask = torch.tensor([[False, True, True]])
    value = sequence_log_probability(logits, torch.zeros(1, 3, dtype=torch.long), mask)
    torch.testing.assert_close(value, torch.tensor([-2 * math.log(4)]))


def test_dpo_is_ln_2_without_a_margin() -> None:
    policy = torch.tensor([[-3.0, -5.0]])
    loss, margin = dpo(policy, policy, beta=0.1)
    torch.testing.assert_close(loss, torch.tensor([math.log(2)]))
    assert margin.item() == 0


def test_dpo_is_the_logistic_loss_of_beta_times_the_difference_of_ratios() -> None:
    policy, reference = torch.tensor([[-1.0, -4.0]]), torch.tensor([[-2.0, -3.0]])
    loss, margin = dpo(policy, reference, beta=0.5)
    torch.testing.assert_close(margin, torch.tensor([1.0]))
    torch.testing.assert_close(loss, torch.tensor([math.log(1 + math.exp(-1.0))]))


def test_z_losses_are_squares_of_the_normaliser_and_of_the_largest_logit() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [-2.0, -3.0]]])
    expected = [math.log(4.0) ** 2, math.log(math.exp(-2) + math.exp(-3)) ** 2]
    assert z_loss(logits)[0].tolist() == pytest.approx(expected)
    assert max_z_loss(logits)[0].tolist() == pytest.approx([math.log(3.0) ** 2, 4.0])

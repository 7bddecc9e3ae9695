"""`python flipping_replay.py HOST FOLDER`: the real replay, but HOST flips a bit of a gradient."""

import sys

import torch

from train import replay
from train.job import node_name

sound = replay.train_step


def train_step(engine, *arguments):
    *_, parameter = engine.module.parameters()

    def flip(gradient: torch.Tensor) -> None:
        gradient.view(-1)[3:4].view(torch.int32).bitwise_xor_(1 << 20)

    handle = parameter.register_hook(lambda gradient: flip(gradient))
    try:
        return sound(engine, *arguments)
    finally:
        handle.remove()


if __name__ == "__main__":
    if node_name() == sys.argv.pop(1):
        replay.train_step = train_step
    replay.main()

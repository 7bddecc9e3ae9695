"""The real replay, but one host flips a bit of a gradient; torch is imported once for all of them.

`python flipping_replay.py serve SOCKET HOST` forks for every request a process that replays;
`python flipping_replay.py SOCKET FOLDER` is such a request, and ends as that process does.
"""

import json
import os
import signal
import socket
import sys
from typing import Any


def ask(path: str, folder: str) -> int:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        with server.makefile("rw") as stream:
            stream.write(json.dumps({"environment": dict(os.environ), "folder": folder}) + "\n")
            stream.flush()
            return 0 if stream.readline() == "done\n" else 1


def serve(path: str, bad: str) -> None:
    from train import replay

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            client, _ = listener.accept()
            with client:
                if os.fork() == 0:
                    be_asked(replay, client, bad)


def be_asked(replay: Any, client: socket.socket, bad: str) -> None:
    try:
        with client.makefile("rw") as stream:
            asked = json.loads(stream.readline())
            os.environ.clear()
            os.environ.update(asked["environment"])
            sys.argv = ["replay", asked["folder"]]
            if os.environ["SLURMD_NODENAME"] == bad:
                replay.train_step = flipping(replay.train_step)
            replay.main()
            stream.write("done\n")
            stream.flush()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def flipping(sound):
    import torch

    def flip(gradient: torch.Tensor) -> None:
        gradient.view(-1)[3:4].view(torch.int32).bitwise_xor_(1 << 20)

    def train_step(engine, *arguments):
        *_, parameter = engine.module.parameters()
        handle = parameter.register_hook(lambda gradient: flip(gradient))
        try:
            return sound(engine, *arguments)
        finally:
            handle.remove()

    return train_step


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    raise SystemExit(ask(*sys.argv[1:]))

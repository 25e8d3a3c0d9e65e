"""Twenty visitors at once on `a4a web` for two minutes: `python benchmarks/web_load.py > benchmarks/results/web_load.json`.

Each visitor has a creature of their own and asks for one picture after the other, every time with another seed. Afterwards
every picture is drawn again here and compared: it must be that visitor's own. Nobody may get an error but that the queue
is full, and the server's memory may not grow once all models are loaded. The exit code is 1 where any of this fails.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Thread

import numpy as np
import psutil
from gradio_client import Client, handle_file
from PIL import Image

from a4a.utils.machine import machine
from a4a.web.app.catalogue import zoo_catalogue
from a4a.web.app.creatures import PROMPTS, creature
from a4a.web.app.drawing import DrawingThread, Settings
from a4a.web.app.models import Models

USERS, SECONDS, EVERY = 20, 120, 5
PROMPT = PROMPTS["in the snow"]
STEPS, GUIDANCE = 15, 3.0
NEAR = 2.0
"""Mean difference of two drawings of the same picture at most, of 255; other creatures differ by tens."""
GROWN = 64 * 2**20
"""Bytes by which memory may differ between two halves of the run: what allocators and caches of the libraries take."""


@dataclass
class Request:
    """What a visitor asked for, and what came of it."""

    user: int
    seed: int
    seconds: float
    picture: np.ndarray | None = None
    error: str | None = None


def visit(user: int, address: str, reference: Path, until: float, requests: list[Request]) -> None:
    """Asks for pictures until the time is over."""
    client = Client(address, verbose=False)
    number = 0
    while time.monotonic() < until:
        seed, began = 1000 * user + number, time.monotonic()
        number += 1
        try:
            path, _, _ = client.predict(
                reference=handle_file(reference), prompt=PROMPT, seed=seed, steps=STEPS, api_name="/generate"
            )
            with Image.open(path) as image:
                found = np.asarray(image.convert("RGB")).astype(np.float32)
            requests.append(Request(user, seed, time.monotonic() - began, picture=found))
        except Exception as error:  # whatever a visitor would see
            requests.append(Request(user, seed, time.monotonic() - began, error=str(error)))
            time.sleep(1)


def serve(folder: Path) -> tuple[subprocess.Popen, str]:
    """A server with its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "a4a", "web", "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=folder
    )
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    if found is None:
        sys.exit("the server did not start")
    return process, found[0]


def under_load(folder: Path) -> tuple[list[Request], list[int]]:
    """All requests, and the server's resident bytes every few seconds."""
    process, address = serve(folder)
    try:
        requests: list[Request] = []
        references = [folder / f"{user}.png" for user in range(USERS)]
        for user, file in enumerate(references):
            creature(user).save(file)
        until = time.monotonic() + SECONDS
        threads = [
            Thread(target=visit, args=(user, address, references[user], until, requests)) for user in range(USERS)
        ]
        for thread in threads:
            thread.start()
        memory = []
        while any(thread.is_alive() for thread in threads):
            memory.append(psutil.Process(process.pid).memory_info().rss)
            time.sleep(EVERY)
        return requests, memory
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def wrong_pictures(requests: list[Request]) -> int:
    """How many pictures are not what their visitor asked for."""
    thread, models, model = DrawingThread(), Models(), zoo_catalogue().models[0]
    wrong = 0
    for request in requests:
        if request.picture is not None:
            settings = Settings(PROMPT, request.seed, 1.0, STEPS, GUIDANCE)
            reference = creature(request.user)
            *_, drawn = thread.draw(lambda: models.pipeline(model, model.adapters[0]), reference, settings)
            wrong += float(np.abs(np.asarray(drawn).astype(np.float32) - request.picture).mean()) > NEAR
    thread.close()
    return wrong


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        requests, memory = under_load(Path(name))
    drawn = [request for request in requests if request.picture is not None]
    refused = [request for request in requests if request.error and "Queue is full" in request.error]
    errors = [request.error for request in requests if request.error and "Queue is full" not in request.error]
    half = len(memory) // 2
    grown = int(median(memory[-(half // 2) :]) - median(memory[half // 2 : half]))
    result = {
        "users": USERS,
        "seconds": SECONDS,
        "pictures": len(drawn),
        "users_with_pictures": len({request.user for request in drawn}),
        "wrong_pictures": wrong_pictures(drawn),
        "refused_by_the_queue": len(refused),
        "other_errors": errors,
        "seconds_of_waiting": {"median": median(r.seconds for r in drawn), "most": max(r.seconds for r in drawn)},
        "grown_bytes": grown,
        "bytes": memory,
        "machine": machine(),
    }
    print(json.dumps(result))
    failed = result["wrong_pictures"] or errors or grown > GROWN or result["users_with_pictures"] < USERS
    sys.exit(bool(failed))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()

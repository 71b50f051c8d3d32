"""Runs in nnU-Net's environment: seconds an iteration of its trainer, its own loaders included.

usage: peer_train_speed.py DATASET CONFIGURATION ITERATIONS DEVICE

Two iterations warm up; the mean over the rest is printed as one JSON line, with patch and batch size.
"""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

WARM_UP = 2


def main() -> None:
    dataset, configuration, iterations, device = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    folder = Path(os.environ["nnUNet_preprocessed"]) / dataset
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    # The trainer's constructor takes this flag out of the plans again.
    plans["continue_training"] = False
    about = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, configuration, 0, about, torch.device(device))
    trainer.initialize()
    for begin in (trainer.on_train_start, trainer.on_epoch_start, trainer.on_train_epoch_start):
        begin()
    start = 0.0
    for number in range(WARM_UP + iterations):
        if number == WARM_UP:
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
        trainer.train_step(next(trainer.dataloader_train))
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / iterations
    manager = trainer.configuration_manager
    print(
        json.dumps(
            {
                "seconds_per_iteration": seconds,
                "batch": int(manager.batch_size),
                "patch": [int(edge) for edge in manager.patch_size],
                "samples_per_second": manager.batch_size / seconds,
            }
        ),
        flush=True,
    )
    # Its loaders would keep the process alive.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)


if __name__ == "__main__":
    main()

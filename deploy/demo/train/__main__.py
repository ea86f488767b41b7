"""python -m deploy.demo.train --out DIR [--resume]"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from deploy.demo.train.state import STATE_FILE
from deploy.demo.train.trainer import TrainConfig, Trainer

_MODEL_FILES = Path(__file__).parents[1] / "model"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.demo.train", description="Train the demo's checkpoint.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the state and, in model/, the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    parser.add_argument("--steps", type=int, default=TrainConfig.steps)
    parser.add_argument("--seed", type=int, default=TrainConfig.seed)
    parser.add_argument("--until", type=int, help="stop after this step, to be resumed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if not arguments.resume and (arguments.out / STATE_FILE).exists():
        parser.error(f"{arguments.out} has a training already: give --resume, or another folder")
    config = TrainConfig(
        model_files=_MODEL_FILES,
        out=arguments.out,
        steps=arguments.steps,
        seed=arguments.seed,
        device=arguments.device,
    )
    trainer = Trainer(config, say=lambda line: print(line, flush=True))
    if arguments.resume:
        try:
            trainer.resume()
        except ValueError as error:
            parser.error(str(error))
    trainer.run(until=arguments.until)


if __name__ == "__main__":
    main()

"""Writes a training checkpoint as a Hugging Face folder with bf16 weights.

    python models/export.py --run runs/demo --out models/demo

The tokenizer files of the folder are left as they are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from chats import Encoder
from gemma2 import Gemma2, Shape, export_config, export_tensors


def load(run: Path) -> Gemma2:
    saved = run / "checkpoint.pt"
    if not saved.exists():
        raise SystemExit(f"{saved} not found; run models/train.py --run {run} first")
    state = torch.load(saved, map_location="cpu", weights_only=True)
    model = Gemma2(Shape(**state["shape"]))
    model.load_state_dict(state["model"])
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = load(args.run)
    encoder = Encoder(args.out)
    config = export_config(model.shape, encoder.ids | {"<end_of_turn>": encoder.end})
    tensors = {name: tensor.bfloat16() for name, tensor in export_tensors(model).items()}
    save_file(tensors, args.out / "model.safetensors", metadata={"format": "pt"})
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": config["eos_token_id"],
        "pad_token_id": config["pad_token_id"],
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.95,
    }
    (args.out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    print(f"{args.out}: {(args.out / 'model.safetensors').stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()

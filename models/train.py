"""Trains the demo model within a given number of minutes, resumably.

    python models/train.py --preset cpu --minutes 60 --run runs/demo     # 2 to 3 million parameters
    python models/train.py --preset gpu --minutes 20 --run runs/demo     # about 9 million, on one GPU
    python models/train.py --preset draft --minutes 8 --run runs/draft

The learning rate follows the share of the minutes that is used, and falls to zero at their end,
so a slow machine gets a well-finished small training and not half of a big one. Matrices are
trained by Muon (orthogonalised momentum), everything else by Adam.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from chats import Batch, Encoder, batches
from gemma2 import Gemma2, Shape

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Preset:
    shape: Shape
    tokens_per_step: int
    device: str


PRESETS = {
    "cpu": Preset(Shape(vocab=2048, hidden=192, layers=4, heads=4, kv_heads=2, ffn=512, window=128), 4096, "cpu"),
    "gpu": Preset(Shape(vocab=2048, hidden=256, layers=8, heads=4, kv_heads=2, ffn=1024, window=256), 32768, "cuda"),
    "draft": Preset(Shape(vocab=2048, hidden=64, layers=2, heads=2, kv_heads=1, ffn=192, window=128), 4096, "cpu"),
}


class Muon:
    """Momentum whose update for each matrix is made orthogonal by Newton-Schulz iteration."""

    def __init__(self, parameters: list[Tensor], momentum: float = 0.95) -> None:
        self.parameters = parameters
        self.momentum = momentum
        self.buffers = [torch.zeros_like(p) for p in parameters]
        # Matrices of one shape are iterated on together: many small products are slow.
        self.groups: dict[tuple[int, ...], list[int]] = {}
        for i, p in enumerate(parameters):
            self.groups.setdefault(tuple(p.shape), []).append(i)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for (rows, columns), members in self.groups.items():
            updates = []
            for i in members:
                grad = self.parameters[i].grad
                assert grad is not None
                self.buffers[i].lerp_(grad, 1 - self.momentum)
                updates.append(grad.lerp(self.buffers[i], self.momentum))
            scale = rate * max(1.0, rows / columns) ** 0.5
            for i, update in zip(members, orthogonal(torch.stack(updates)), strict=True):
                self.parameters[i].mul_(1 - 0.01 * rate).add_(update, alpha=-scale)


def orthogonal(x: Tensor) -> Tensor:
    """The nearest matrix with all singular values near 1, for a stack of matrices."""
    wide = x.shape[-2] > x.shape[-1]
    x = x.mT if wide else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if wide else x


def rate_at(done: float) -> float:
    """Warm up for 1%, hold until 30%, then fall to zero."""
    return min(1.0, done / 0.01, max(0.0, (1.0 - done) / 0.7))


def tensors(batch: Batch, device: str) -> tuple[Tensor, ...]:
    arrays = (batch.ids, batch.position, batch.chat, batch.wanted, batch.target, batch.weight)
    return tuple(torch.from_numpy(array).to(device) for array in arrays)


def losses_of(model: Gemma2, parts: tuple[Tensor, ...], low: bool) -> Tensor:
    """The loss of every token that the model says."""
    ids, position, chat, wanted, target, _ = parts
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=low):
        logits = model(ids, position, chat, wanted)
    return F.cross_entropy(logits, target, reduction="none")


@torch.no_grad()
def held_out_loss(model: Gemma2, stream: list[tuple[Tensor, ...]], low: bool) -> float:
    total, count = 0.0, 0
    for parts in stream:
        total += losses_of(model, parts, low).sum().item()
        count += len(parts[-1])
    return total / count


def take(stream: Iterator[tuple[int, Batch]], count: int, device: str) -> list[tuple[Tensor, ...]]:
    return [tensors(next(stream)[1], device) for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="wall-clock time, over all resumptions")
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoint and the log")
    parser.add_argument("--tokenizer", type=Path, default=HERE / "demo")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, help="tokens per step")
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=0.003)
    parser.add_argument("--bf16", action="store_true", help="autocast; not faster on every CPU")
    parser.add_argument("--compile", action="store_true", help="torch.compile; needs a C++ compiler")
    parser.add_argument("--save-minutes", type=float, default=3.0)
    args = parser.parse_args()
    if args.minutes <= 0:
        parser.error("--minutes must be more than 0")
    preset = PRESETS[args.preset]
    if preset.device == "cuda" and not torch.cuda.is_available():
        parser.error("--preset gpu needs a CUDA device and found none; try --preset cpu")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)

    encoder = Encoder(args.tokenizer)
    model = Gemma2(preset.shape).to(preset.device)
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=args.adam_rate, betas=(0.9, 0.98), weight_decay=0.0)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters", flush=True)

    saved = args.run / "checkpoint.pt"
    step, seen, used, index = 0, 0, 0.0, 0
    if saved.exists():
        state = torch.load(saved, map_location=preset.device, weights_only=True)
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        muon.buffers = state["muon"]
        step, seen, used, index = state["step"], state["seen"], state["used"], state["index"]
        print(f"resumed at step {step}, {used / 60:.1f} minutes used", flush=True)

    def save() -> None:
        state = {"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.buffers}
        state |= {"step": step, "seen": seen, "used": used, "index": index, "shape": preset.shape.as_dict()}
        torch.save(state, saved.with_suffix(".tmp"))
        saved.with_suffix(".tmp").replace(saved)

    tokens = args.tokens or preset.tokens_per_step
    test = take(batches(encoder, args.seed, "test", 4096), 8, preset.device)
    stream = batches(encoder, args.seed, "train", tokens, index)
    run = torch.compile(model, dynamic=None) if args.compile else model
    log = (args.run / "log.csv").open("a", newline="")
    writer = csv.writer(log)
    if step == 0:
        writer.writerow(["step", "tokens", "minutes", "rate", "train_loss", "held_out_loss", "tokens_per_s"])
    begun = time.monotonic()
    used_before, last_saved, last_log, losses, last_seen = used, used, used, [], seen
    while used < 60 * args.minutes:
        rate = rate_at(used / (60 * args.minutes))
        index, batch = next(stream)
        parts = tensors(batch, preset.device)
        weight = parts[-1]
        loss = (losses_of(run, parts, args.bf16) * weight).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        muon.step(args.muon_rate * rate)
        for group in adam.param_groups:
            group["lr"] = args.adam_rate * rate
        adam.step()
        for p in model.parameters():
            p.grad = None
        step += 1
        seen += batch.ids.size
        losses.append(loss.item())
        used = used_before + time.monotonic() - begun
        if used - last_log >= 30:
            speed = (seen - last_seen) / (used - last_log)
            held = held_out_loss(model, test, args.bf16)
            mean = sum(losses) / len(losses)
            row = [step, seen, f"{used / 60:.2f}", f"{rate:.3f}", f"{mean:.4f}", f"{held:.4f}", f"{speed:.0f}"]
            writer.writerow(row)
            log.flush()
            print(*row, flush=True)
            used = used_before + time.monotonic() - begun
            last_log, losses, last_seen = used, [], seen
        if used - last_saved >= 60 * args.save_minutes:
            save()
            last_saved = used
    save()
    print(f"done: {step} steps, held-out loss {held_out_loss(model, test, args.bf16):.4f}", flush=True)


if __name__ == "__main__":
    main()

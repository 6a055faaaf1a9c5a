"""From generated chats to packed batches of token ids, with which of them are learned.

Only what the model says is learned: a user's words are random draws, and predicting them
would waste a small model. Chats are packed into rows of 256, 512 or 1024 tokens, because
attention costs by row length and most chats are short.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from generate import Split, chat

ROW_LENGTHS = (256, 512, 1024)
# Most of a story is free choice, which no training makes predictable. Answers are not.
STORY_WEIGHT = 0.3

Example = tuple[list[int], list[float]]


class Encoder:
    """The tokenizer and chat template of one exported folder."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "tokenizer.json").exists():
            raise SystemExit(f"{folder}/tokenizer.json not found; run models/make_tokenizer.py --out {folder} first")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        self.template = environment.from_string(config["chat_template"])
        self.ids = {token: self.tokenizer.token_to_id(token) for token in ("<pad>", "<bos>", "<eos>")}
        self.start, self.end = (self.tokenizer.token_to_id(f"<{side}_of_turn>") for side in ("start", "end"))
        self.model = self.tokenizer.token_to_id("model")

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def render(self, messages: list[dict[str, Any]], tools: list[Any], prompt: bool = False) -> str:
        return self.template.render(messages=messages, tools=tools, bos_token="<bos>", add_generation_prompt=prompt)

    def example(self, made: dict[str, Any]) -> Example:
        """Ids, and for each how much the model should learn to say it."""
        if "text" in made:
            ids = [self.ids["<bos>"], *self.encode(made["text"]), self.ids["<eos>"]]
            return ids, [0.0] + [STORY_WEIGHT] * (len(ids) - 1)
        ids = self.encode(self.render(made["messages"], made["tools"]))
        weights = iter(STORY_WEIGHT if m["kind"] == "story" else 1.0 for m in made["messages"] if "kind" in m)
        learned = [0.0] * len(ids)
        i = 0
        while i < len(ids):
            i += 1
            if ids[i - 1] == self.start and ids[i] == self.model:
                i += 2  # the role and its newline
                weight = next(weights)
                while True:
                    learned[i] = weight
                    i += 1
                    if ids[i - 1] == self.end:
                        break
        return ids, learned


@dataclass(frozen=True)
class Batch:
    """Arrays [rows, time]; `wanted` are flat positions, `target` what comes after, `weight` how much that counts."""

    ids: np.ndarray
    position: np.ndarray
    chat: np.ndarray
    wanted: np.ndarray
    target: np.ndarray
    weight: np.ndarray


def pack(rows: list[list[Example]], length: int, pad: int) -> Batch:
    ids = np.full((len(rows), length), pad, np.int64)
    position = np.zeros_like(ids)
    number = np.zeros_like(ids)
    learned = np.zeros((len(rows), length + 1), np.float32)
    for r, row in enumerate(rows):
        at = 0
        for n, (tokens, mask) in enumerate(row):
            span = slice(at, at + len(tokens))
            ids[r, span] = tokens
            position[r, span] = np.arange(len(tokens))
            number[r, span] = n + 1
            learned[r, span] = mask
            at += len(tokens)
    # A chat opens with a token that is not learned, so no target crosses from one chat to the next.
    wanted = np.flatnonzero(learned[:, 1:])
    target = np.roll(ids, -1, 1).reshape(-1)[wanted]
    return Batch(ids, position, number, wanted, target, learned[:, 1:].reshape(-1)[wanted])


def batches(encoder: Encoder, seed: int, split: Split, tokens: int, start: int = 0) -> Iterator[tuple[int, Batch]]:
    """Endless batches of about `tokens` tokens, each with the number of the next unread chat."""
    pools: dict[int, list[Example]] = {length: [] for length in ROW_LENGTHS}
    index = start
    while True:
        ids, learned = encoder.example(chat(seed, split, index))
        index += 1
        ids, learned = ids[: ROW_LENGTHS[-1]], learned[: ROW_LENGTHS[-1]]
        length = next(n for n in ROW_LENGTHS if len(ids) <= n)
        pool = pools[length]
        pool.append((ids, learned))
        # Half as much again as a batch holds, so that the packing has a choice.
        if sum(len(example[0]) for example in pool) < 1.5 * tokens:
            continue
        # Small chats fill the gaps of every row length.
        rows = []
        small = pools[ROW_LENGTHS[0]]
        for _ in range(max(1, tokens // length)):
            row, room = [pool.pop(0)], length
            room -= len(row[0][0])
            for source in (pool, small):
                fitting = [example for example in source if len(example[0]) <= room]
                while fitting:
                    best = max(fitting, key=lambda example: len(example[0]))
                    source.remove(best)
                    row.append(best)
                    room -= len(best[0])
                    fitting = [example for example in source if len(example[0]) <= room]
            rows.append(row)
            if not pool:
                break
        while len(rows) < max(1, tokens // length):
            rows.append([])
        yield index, pack(rows, length, encoder.ids["<pad>"])

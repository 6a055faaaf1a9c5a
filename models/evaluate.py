"""Measures an exported model: held-out loss, right answers per task, and ten stories to read.

    python models/evaluate.py models/demo --stories models/stories.md

An answer is right when the greedy answer is the generator's, character for character. All
combinations asked about are held out: the generator never wrote them for training. The
weights are read back from the export, so what is measured is what is served.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from chats import Encoder, batches
from gemma2 import CONTEXT, Gemma2, Shape, export_tensors
from generate import chat, held_out, tale_for
from train import held_out_loss, take
from words import a

# (who, what it is about, the request, a follow-up). Each pair is held out (checked below), so
# the generator never wrote these stories for training.
STORIES = [
    (
        "rabbit",
        "lantern",
        "Tell me a story about a rabbit who finds a lantern.",
        "Where did the rabbit find the lantern?",
    ),
    ("girl", "key", "Write a short story about a girl who loses a key", "Where was the key?"),
    ("bear", "ride a bicycle", "Tell me a story about a bear who learns to ride a bicycle.", "Who helped the bear?"),
    ("mouse", "boat", "Please tell me a story about a mouse who builds a boat.", "Who was the boat for?"),
    (
        "hedgehog",
        "squirrel",
        "tell me a story about a hedgehog who rescues a squirrel",
        "Where was the squirrel stuck?",
    ),
    ("queen", "pie", "Can you tell me a story about a queen who shares a pie?", "Who was hungry?"),
    ("robot", "the dark", "I would like a story about a robot who is afraid of the dark.", "Where did the robot hide?"),
    ("mouse", "rose", "Make up a story about a mouse that plants a rose.", "Where was the seed?"),
    ("penguin", "the sea", "Tell me a story about a penguin who wants to see the sea.", "How long did they walk?"),
    ("rabbit", "turtle", "A story about a rabbit who races a turtle, please.", "What was the prize?"),
]


def load_exported(folder: Path) -> Gemma2:
    config = json.loads((folder / "config.json").read_text())
    model = Gemma2(
        Shape(
            vocab=config["vocab_size"],
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            ffn=config["intermediate_size"],
            window=config["sliding_window"],
        )
    )
    stored = load_file(folder / "model.safetensors")
    with torch.no_grad():
        model.embed.weight.copy_(stored["model.embed_tokens.weight"])
        model.norm.weight.copy_(stored["model.norm.weight"])
        for layer in model.layers:
            at = f"model.layers.{layer.index}."
            heads = [stored[f"{at}self_attn.{name}_proj.weight"] for name in "qkv"]
            layer.qkv.weight.copy_(torch.cat(heads))
            layer.out.weight.copy_(stored[f"{at}self_attn.o_proj.weight"])
            gates = [stored[f"{at}mlp.{name}_proj.weight"] for name in ("gate", "up")]
            layer.gate_up.weight.copy_(torch.cat(gates))
            layer.down.weight.copy_(stored[f"{at}mlp.down_proj.weight"])
            layer.norm_attn_in.weight.copy_(stored[f"{at}input_layernorm.weight"])
            layer.norm_attn_out.weight.copy_(stored[f"{at}post_attention_layernorm.weight"])
            layer.norm_ffn_in.weight.copy_(stored[f"{at}pre_feedforward_layernorm.weight"])
            layer.norm_ffn_out.weight.copy_(stored[f"{at}post_feedforward_layernorm.weight"])
    back = export_tensors(model)
    assert all(torch.equal(back[name], stored[name].float()) for name in stored)
    return model.eval()


@torch.no_grad()
def complete(
    model: Gemma2, encoder: Encoder, prompts: list[list[int]], limit: int, temperature: float = 0.0, seed: int = 0
) -> list[list[int]]:
    """Continues all prompts at once, without a cache: short and slow, as a definition should be."""
    source = torch.Generator().manual_seed(seed)
    rows = [list(prompt) for prompt in prompts]
    going = [len(row) + limit <= CONTEXT for row in rows]
    for _ in range(limit):
        live = [i for i, on in enumerate(going) if on]
        if not live:
            break
        time = max(len(rows[i]) for i in live)
        ids = torch.full((len(live), time), encoder.ids["<pad>"])
        for r, i in enumerate(live):
            ids[r, : len(rows[i])] = torch.tensor(rows[i])
        position = torch.arange(time).expand_as(ids)
        last = torch.tensor([r * time + len(rows[i]) - 1 for r, i in enumerate(live)])
        logits = model(ids, position, torch.ones_like(ids), last)
        if temperature > 0:
            chosen = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=source)[:, 0]
        else:
            chosen = logits.argmax(-1)
        for i, token in zip(live, chosen.tolist(), strict=True):
            rows[i].append(token)
            going[i] = token not in (encoder.end, encoder.ids["<eos>"])
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


TASKS = ("question", "arithmetic", "sorting", "json", "tools", "tool-reply", "talk", "simple")


def turns(learned: list[float]) -> list[slice]:
    """Where each turn of the model lies."""
    starts = [i for i, on in enumerate(learned) if on and not learned[i - 1]]
    ends = [i for i in range(1, len(learned) + 1) if learned[i - 1] and not (i < len(learned) and learned[i])]
    return [slice(*span) for span in zip(starts, ends, strict=True)]


@torch.no_grad()
def accuracy(model: Gemma2, encoder: Encoder, per_task: int) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Right and asked, per task, and the wrong answers.

    Greedy decoding says exactly the reference if and only if every token of the reference is
    the likeliest after those before it, so one pass over a whole chat decides all its turns.
    """
    right, asked, wrong = Counter[str](), Counter[str](), []
    for index in range(40 * per_task):
        made = chat(2, "test", index)
        kinds = [m["kind"] for m in made.get("messages", []) if "kind" in m]
        if all(kind not in TASKS or asked[kind] >= per_task for kind in kinds):
            continue
        tokens, learned = encoder.example(made)
        if len(tokens) > CONTEXT:
            continue
        ids = torch.tensor([tokens])
        every = torch.arange(len(tokens))
        best = model(ids, every[None], torch.ones_like(ids), every).argmax(-1).tolist()
        for kind, span in zip(kinds, turns(learned), strict=True):
            if kind not in TASKS or asked[kind] >= per_task:
                continue
            said, meant = best[span.start - 1 : span.stop - 1], tokens[span]
            asked[kind] += 1
            right[kind] += said == meant
            if said != meant:
                prompt = encoder.tokenizer.decode(tokens[max(0, span.start - 40) : span.start - 3])
                texts = [encoder.tokenizer.decode(part) for part in (said, meant)]
                wrong.append(f"{kind}: {texts[0]!r} for {texts[1]!r} after {prompt!r}")
        if all(asked[task] >= per_task for task in TASKS):
            break
    return {task: (right[task], asked[task]) for task in TASKS}, wrong


@torch.no_grad()
def faithful(model: Gemma2, encoder: Encoder, count: int) -> tuple[int, int]:
    """Of held-out requests, how many sampled stories are about who and what was asked for, and end.

    Nothing judges the plot here: that is what models/stories.md is for.
    """
    requests = []
    index = 0
    while len(requests) < count:
        tale = tale_for(random.Random(f"faithful {index}"), "test")
        index += 1
        c = tale.cast
        if not c.strange:
            requests.append((f"Tell me a story about {a(c.kind)} who {tale.deed}.", c.kind, c.theme))
    right = 0
    for start in range(0, count, 25):
        part = requests[start : start + 25]
        prompts = [
            encoder.encode(encoder.render([{"role": "user", "content": text}], [], prompt=True)) for text, _, _ in part
        ]
        for (_, kind, theme), ids in zip(part, complete(model, encoder, prompts, 200, 0.7, seed=start), strict=True):
            story = encoder.tokenizer.decode(ids, skip_special_tokens=True)
            right += kind in story and theme in story and ids[-1] == encoder.end
    return right, count


def tell(model: Gemma2, encoder: Encoder, messages: list[dict[str, Any]], temperature: float = 0.0) -> str:
    prompt = encoder.encode(encoder.render(messages, [], prompt=True))
    ids = complete(model, encoder, [prompt], 200, temperature)[0]
    return encoder.tokenizer.decode(ids, skip_special_tokens=True)


def ten_stories(model: Gemma2, encoder: Encoder) -> str:
    lines = [
        "# Ten stories",
        "",
        "Greedy, unedited, from `models/evaluate.py`. No training text tells of these pairs of who and what.",
        "",
    ]
    for kind, theme, request, follow_up in STORIES:
        assert held_out(f"{kind} {theme}"), (kind, theme)
        messages: list[dict[str, Any]] = [{"role": "user", "content": request}]
        for asked in (follow_up, "Give the story a title."):
            messages.append({"role": "assistant", "content": tell(model, encoder, messages)})
            messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": tell(model, encoder, messages)})
        lines += [f"## {messages[-1]['content']}", "", f"> {request}", "", messages[1]["content"], ""]
        lines += [f"> {follow_up}", "", messages[3]["content"], ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-task", type=int, default=200)
    parser.add_argument("--requests", type=int, default=0, help="sample so many stories, see whether they fit")
    parser.add_argument("--stories", type=Path, help="also write the ten stories here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--wrong", type=int, default=0, help="show so many wrong answers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load_exported(args.folder)
    encoder = Encoder(args.folder)
    loss = held_out_loss(model, take(batches(encoder, 3, "test", 4096), 12, "cpu"), low=False)
    print(f"held-out loss {loss:.4f} per token that the model says")
    if args.per_task:
        scores, wrong = accuracy(model, encoder, args.per_task)
        for task, (right, asked) in scores.items():
            print(f"{task}: {right}/{asked}")
        for line in wrong[:: max(1, len(wrong) // max(1, args.wrong))][: args.wrong]:
            print(line)
    if args.requests:
        right, asked = faithful(model, encoder, args.requests)
        print(f"stories that keep to the request: {right}/{asked}", flush=True)
    if args.stories:
        args.stories.write_text(ten_stories(model, encoder))


if __name__ == "__main__":
    main()

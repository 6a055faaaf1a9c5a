"""Writes what an engine must reproduce, as `transformers` computes it on the exported folder.

    python models/make-golden.py models/demo

golden.safetensors: for prompts p0, p1, p2 of 7, 61 and 150 tokens the ids, the logits of the
last 8 positions, 24 greedy tokens, and for each the lead over the second choice, so that a
test can tell a wrong token from a tie. tokenizer-golden.json: strings and chats with their ids.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, Gemma2ForCausalLM

from evaluate import load_exported
from generate import chat
from tasks import tool

LENGTHS = (7, 61, 150)
STRINGS = [
    "",
    " ",
    "Hello",
    "Tell me a story about a fox who finds a lantern.",
    "Once upon a time there was a brave fox named Mira.",
    "27 + 35 = 62",
    '{"name": "Mira", "age": 7}',
    "two  spaces,\ttabs\nand\n\n\nlines \n",
    "naïve café 你好 🦊 Ω",
    "don't it's THE End.",
    "<start_of_turn>user\nhi<end_of_turn>",
    "<tool_call>\n{}\n</tool_call>",
    " leading and trailing ",
    "supercalifragilistic 1234567890",
    "\u0000\u0007\ufeff\u200b",
]
WEATHER = tool("get_weather", "Get the weather in a city", {"city": "string"})
LIGHT = tool("set_light", "Turn a light on or off", {"room": "string", "on": "boolean"})


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


CHATS: list[dict[str, Any]] = [
    {"messages": [user("Hello")]},
    {"messages": [user("Hello")], "add_generation_prompt": False},
    {"messages": [{"role": "system", "content": "Be brief."}, user("  Tell me a story.  ")]},
    {
        "messages": [
            user("Tell me a story about a fox."),
            {"role": "assistant", "content": "Mira was a fox."},
            user("Who was Mira?"),
        ]
    },
    {"messages": [user("What is the weather in Oslo?")], "tools": [WEATHER, LIGHT]},
    {"messages": [{"role": "system", "content": "Be brief."}, user("Light on in the hall.")], "tools": [LIGHT]},
    {
        "messages": [
            user("What is the weather in Oslo?"),
            {"role": "assistant", "content": None, "tool_calls": [call("get_weather", {"city": "Oslo"})]},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"city": "Oslo", "degrees": 3}'},
        ],
        "tools": [WEATHER],
    },
    {
        "messages": [
            user("What is the weather in Oslo?"),
            {"role": "assistant", "content": "Let me see.", "tool_calls": [call("get_weather", '{"city": "Oslo"}')]},
            {"role": "tool", "content": "rain"},
            {"role": "assistant", "content": "It rains."},
            user("Thanks"),
        ],
        "tools": [WEATHER],
    },
    {"messages": [user([{"type": "text", "text": "Hello"}, {"type": "text", "text": " there"}])]},
]


@torch.no_grad()
def golden(folder: Path, tokenizer: Any) -> dict[str, torch.Tensor]:
    model = Gemma2ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ours = load_exported(folder)
    made = next(c for c in (chat(1, "test", i) for i in range(1000)) if "messages" in c and len(c["messages"]) > 8)
    text = tokenizer.apply_chat_template(made["messages"], tools=made["tools"] or None, tokenize=False)
    source = tokenizer(text, add_special_tokens=False).input_ids
    out: dict[str, torch.Tensor] = {}
    for n, length in enumerate(LENGTHS):
        ids = torch.tensor([source[:length]])
        logits = model(ids).logits[0]
        # The training code must be the same function, or what was measured is not what is served.
        every = torch.arange(length)
        difference = (ours(ids, every[None], torch.ones_like(ids), every) - logits).abs().max().item()
        print(f"{length} tokens: training code and transformers differ by {difference:.1e}")
        assert difference < 1e-3, difference
        greedy, margin, longer = [], [], ids
        for _ in range(24):
            best = model(longer).logits[0, -1].topk(2)
            greedy.append(best.indices[0].item())
            margin.append((best.values[0] - best.values[1]).item())
            longer = torch.cat([longer, best.indices[None, :1]], 1)
        out[f"p{n}.ids"] = ids[0].int()
        out[f"p{n}.logits"] = logits[-8:].float().clone()
        out[f"p{n}.greedy"] = torch.tensor(greedy, dtype=torch.int32)
        out[f"p{n}.margin"] = torch.tensor(margin, dtype=torch.float32)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    if not (args.folder / "model.safetensors").exists():
        parser.error(f"{args.folder} has no model.safetensors; run models/export.py first")
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    save_file(golden(args.folder, tokenizer), args.folder / "golden.safetensors")
    strings = [
        {
            "text": text,
            "ids": tokenizer(text).input_ids,
            "ids_plain": tokenizer(text, add_special_tokens=False).input_ids,
            "decoded": tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids, skip_special_tokens=True),
        }
        for text in STRINGS
    ]
    chats = []
    for case in CHATS:
        case = {"tools": None, "add_generation_prompt": True} | case
        text = tokenizer.apply_chat_template(
            case["messages"],
            tools=case["tools"],
            add_generation_prompt=case["add_generation_prompt"],
            tokenize=False,
        )
        chats.append(case | {"text": text, "ids": tokenizer(text, add_special_tokens=False).input_ids})
    made = {"strings": strings, "chats": chats}
    (args.folder / "tokenizer-golden.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()

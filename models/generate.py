"""Writes the training text of the demo model: chats, one a JSON line, from a seed.

    python models/generate.py --seed 1 --split train --count 5

Chat number i of a seed and split is always the same, so training can resume anywhere and
nothing has to be stored. Both splits come from the same tables; what separates them is the
combination (a fox with a lantern, 17 + 25, ...): one in ten is held out, by hash, and a
combination that is held out is never written for training. Chat templates and tokens are
not known here.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import zlib
from collections.abc import Callable
from typing import Any, Literal

from story import Tale, make_tale
from tasks import NAMED_USES, Message, Segment, arithmetic, fill_json, model, rough, sorting, talk, tool_call, user
from words import a

Split = Literal["train", "test"]
NOT_TOLD = "The story does not say."
SYSTEMS = (
    "You are a helpful assistant.|You are a storyteller.|You are a kind storyteller for children.|"
    "Answer briefly.|Be brief.|You are a friendly assistant.|Keep it short.|You are Tessera.|Help the user.|"
    "Be polite.|You tell stories to children.|You are a careful assistant. Answer in one sentence."
).split("|")


# What a story can be said to be about without naming anybody.
TOPICS = {
    "shares": ["sharing", "being kind", "food"],
    "fears": ["courage", "being brave", "fear"],
    "plants": ["patience", "a garden", "a seed"],
    "rescues": ["helping others", "helping", "friendship"],
    "races": ["a race", "winning", "sport"],
    "builds": ["a birthday", "a gift", "hard work"],
    "travels": ["a journey", "an adventure", "friends"],
    "learns": ["learning", "practice"],
}


def held_out(key: str) -> bool:
    return zlib.crc32(key.encode()) % 10 == 0


def drawn(rng: random.Random, split: Split, make: Callable[[random.Random], Any], key: Callable[[Any], str]) -> Any:
    """Draws until the thing belongs to the split. Both answers are common, so this ends soon."""
    while True:
        thing = make(rng)
        if held_out(key(thing)) == (split == "test"):
            return thing


def ask_for(rng: random.Random, tale: Tale) -> str:
    """A request that names some of what the story will hold, and nothing that it will not."""
    c = tale.cast
    bare = [
        "Tell me a story.",
        "Tell me a story",
        "I want a story.",
        "Can you tell me a story?",
        "Write a story.",
        "Please tell me a story.",
        "Tell me another story.",
        "Another story, please.",
        "A story, please!",
    ]
    if rng.random() < 0.04 and not c.strange:
        return rng.choice(bare)
    who = a((c.trait + " " if rng.random() < 0.2 else "") + c.kind)
    if rng.random() < 0.15 or c.strange == "name":
        who += rng.choice([" named ", " called "]) + c.name
    if rng.random() < 0.85 or c.strange == "obj":
        subject = f"{who} {rng.choice(['who', 'who', 'who', 'that'])} {tale.deed}"
        if tale.placed and rng.random() < 0.2:
            subject += " " + c.place
    elif rng.random() < 0.25:
        subject = f"{who} and {a(c.friend_kind)}"
    elif rng.random() < 0.2 and tale.plot in TOPICS:
        subject = rng.choice(TOPICS[tale.plot])
    elif rng.random() < 0.3 and tale.plot in ("finds", "loses"):
        subject = f"{who} and {a(c.obj)}"
    elif rng.random() < 0.3 and tale.plot in ("finds", "loses"):
        subject = a(f"{c.look} {c.obj}")
    else:
        subject = who
    return rng.choice(
        [
            f"Tell me a story about {subject}.",
            f"Tell me a story about {subject}.",
            f"Tell me a story about {subject}",
            f"Please tell me a story about {subject}.",
            f"Can you tell me a story about {subject}?",
            f"Write a short story about {subject}.",
            f"Write a story about {subject}.",
            f"I would like a story about {subject}.",
            f"A story about {subject}, please.",
            f"Make up a story about {subject}.",
            f"Give me a story about {subject}.",
            f"Tell me a short story about {subject}.",
            f"story about {subject}",
            f"Tell a tale of {subject}.",
        ]
    )


def questions(rng: random.Random, tale: Tale, count: int) -> list[Message]:
    messages: list[Message] = []
    for fact in rng.sample(tale.facts, min(count, len(tale.facts))):
        messages += [user(rough(rng, rng.choice(fact.questions))), model("question", fact.answer)]
    if rng.random() < 0.12:
        c = tale.cast
        unknown = [
            f"How old was {c.name}?",
            f"What did {c.name} have for breakfast?",
            f"Who is {c.friend}'s mother?",
            f"How tall was the {c.kind}?",
            f"What is {c.name}'s favourite colour?",
            f"Did {c.name} have a brother?",
            "What year was it?",
        ]
        messages += [user(rough(rng, rng.choice(unknown))), model("question", NOT_TOLD)]
    return messages


def tale_for(rng: random.Random, split: Split) -> Tale:
    return drawn(rng, split, make_tale, lambda tale: " ".join(tale.key))


def told(rng: random.Random, split: Split) -> Segment:
    tale = tale_for(rng, split)
    if rng.random() < 0.1:
        # The user brings the story: reading without having written.
        asked, *rest = questions(rng, tale, rng.randint(1, 3))
        asked = user(
            rng.choice([f"{tale.text} {asked['content']}", f"Read this story: {tale.text}\n{asked['content']}"])
        )
        return Segment("", [asked, *rest])
    messages = [user(rough(rng, ask_for(rng, tale))), model("story", tale.text)]
    return Segment("", messages + questions(rng, tale, rng.choice([0, 2, 3, 4, 5, 6, 7])))


def short(make: Callable[[random.Random], Segment]) -> Callable[[random.Random, Split], Segment]:
    def make_for(rng: random.Random, split: Split) -> Segment:
        return drawn(rng, split, make, lambda segment: segment.key)

    return make_for


# How often a chat is opened by a task, and how many of its segments follow one another.
TASKS: dict[str, tuple[int, Callable[[random.Random, Split], Segment], list[int]]] = {
    "story": (44, told, [1, 1, 1, 1, 2]),
    "arithmetic": (14, short(arithmetic), [2, 4, 6, 8]),
    "sorting": (12, short(sorting), [1, 2, 3, 4]),
    "json": (14, short(fill_json), [1, 1, 2]),
    "tools": (15, short(tool_call), [1]),
    "talk": (6, short(talk), [1, 1, 2]),
}


def chat(seed: int, split: Split, index: int) -> dict[str, Any]:
    """Chat number `index`: {"messages", "tools"}, or {"text"} for a story without a chat."""
    rng = random.Random(f"{seed} {split} {index}")
    if rng.random() < 0.03:
        tale = tale_for(rng, split)
        if not tale.cast.strange:
            return {"text": tale.text}
    names = list(TASKS)
    weights = [TASKS[name][0] for name in names]
    # A few chats are long, so that every position of the context is trained.
    plan: list[str] = []
    for _ in range(rng.randint(3, 7) if rng.random() < 0.02 else rng.choice([1, 1, 1, 1, 1, 2])):
        name = rng.choices(names, weights)[0]
        plan += [name] * rng.choice(TASKS[name][2])
    segments = [TASKS[name][1](rng, split) for name in plan]
    tools: dict[str, Any] = {}
    for segment in segments:
        tools |= {tool["function"]["name"]: tool for tool in segment.tools}
    # Tools that nobody needs: they are not to be called for a story.
    if not tools and rng.random() < 0.06:
        for use in rng.sample(NAMED_USES, rng.randint(1, 2)):
            spare = use(rng).tool
            tools[spare["function"]["name"]] = spare
    messages = [message for segment in segments for message in segment.messages]
    if rng.random() < 0.15:
        messages.insert(0, {"role": "system", "content": rng.choice(SYSTEMS)})
    return {"messages": messages, "tools": list(tools.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", choices=["train", "test"], default="train")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=5)
    args = parser.parse_args()
    if args.count < 1 or args.start < 0:
        parser.error("--count must be at least 1 and --start at least 0")
    for index in range(args.start, args.start + args.count):
        sys.stdout.write(json.dumps(chat(args.seed, args.split, index), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

"""The short tasks: arithmetic, sorting, JSON, tool calls and small talk.

Each maker returns one `Segment`: turns that belong together, with the key by which
the held-out split is made. A maker knows nothing of the split or of other tasks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from words import (
    CITIES,
    COLOURS,
    DAYS,
    FOODS,
    HE,
    ITEMS,
    JOBS,
    KINDS,
    ROOMS,
    SHE,
    WEATHER,
    a,
    cap,
    invent,
)

Message = dict[str, Any]


@dataclass
class Segment:
    """Turns of one task. An assistant turn carries "kind", the task that it is scored as."""

    key: str
    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def model(kind: str, text: str) -> Message:
    return {"role": "assistant", "content": text, "kind": kind}


def rough(rng: random.Random, text: str) -> str:
    """The text as people type it: often with no capital or no full stop."""
    if rng.random() < 0.2:
        text = text[:1].lower() + text[1:]
    if rng.random() < 0.2 and text[-1] in ".?":
        text = text[:-1]
    return text


def name_of(rng: random.Random) -> str:
    return cap(invent(rng)) if rng.random() < 0.05 else rng.choice(SHE + HE)


def city_of(rng: random.Random) -> str:
    return cap(invent(rng)) if rng.random() < 0.05 else rng.choice(CITIES)


# -- arithmetic ---------------------------------------------------------------


def arithmetic(rng: random.Random) -> Segment:
    op = rng.choice("+++---*")
    top = 10 if op == "*" or rng.random() < 0.3 else 20
    x, y = rng.randint(0, top), rng.randint(0, top)
    if op == "-" and x < y:
        x, y = y, x
    value = {"+": x + y, "-": x - y, "*": x * y}[op]
    word = {"+": "plus", "-": "minus", "*": "times"}[op]
    # Multiplication has only a few facts, so nothing of it is held out but its phrasing.
    key = f"{x}{op}{y}" if op != "*" else f"times {x} {y} {rng.random()}"
    asked = rng.choice(
        [
            f"What is {x} {op} {y}?",
            f"{x} {op} {y}",
            f"{x} {op} {y} =",
            f"{x}{op}{y}",
            f"What is {x} {word} {y}?",
            f"Calculate {x} {op} {y}.",
            f"How much is {x} {op} {y}?",
        ]
    )
    if op != "*" and rng.random() < 0.3:
        name, thing = name_of(rng), rng.choice(["apple", "coin", "shell", "button", "book", "ball", "pear"])
        verb = "gets" if op == "+" else "loses"
        more = " more" if op == "+" else ""
        things = thing if x == 1 else thing + "s"
        asked = f"{name} has {x} {things} and {verb} {y}{more}. How many {thing}s does {name} have?"
        answer = f"{name} has {value} {thing if value == 1 else thing + 's'}."
        return Segment(key, [user(rough(rng, asked)), model("arithmetic", answer)])
    return Segment(key, [user(rough(rng, asked)), model("arithmetic", f"{x} {op} {y} = {value}")])


# -- sorting ------------------------------------------------------------------

SORTABLE = sorted(set(KINDS[:40]) | set(COLOURS))


def sorting(rng: random.Random) -> Segment:
    words = rng.sample(SORTABLE, rng.choice([2, 3, 3, 4, 4, 5]))
    listed = ", ".join(words)
    asked = rng.choice(
        [
            f"Sort these words: {listed}",
            f"Sort these words: {listed}.",
            f"Sort: {listed}",
            f"Put these words in order: {listed}",
            f"Sort the words {listed} alphabetically.",
            f"Please sort these words from a to z: {listed}",
        ]
    )
    answer = model("sorting", ", ".join(sorted(words)))
    return Segment("sort " + " ".join(sorted(words)), [user(rough(rng, asked)), answer])


# -- JSON ---------------------------------------------------------------------


def record(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A sentence and everything that it says."""
    shape = rng.randrange(5)
    if shape == 0:
        d: dict[str, Any] = {"name": name_of(rng), "age": rng.randint(2, 99), "city": city_of(rng)}
        says = [
            f"{d['name']} is {d['age']} years old and lives in {d['city']}.",
            f"{d['name']} lives in {d['city']} and is {d['age']} years old.",
            f"My name is {d['name']}, I am {d['age']} and I live in {d['city']}.",
        ]
    elif shape == 1:
        d = {"item": rng.choice(ITEMS), "colour": rng.choice(COLOURS), "price": rng.randint(1, 99)}
        says = [
            f"The {d['colour']} {d['item']} costs {d['price']} dollars.",
            f"I bought a {d['colour']} {d['item']} for {d['price']} dollars.",
        ]
    elif shape == 2:
        d = {"name": name_of(rng), "job": rng.choice(JOBS), "city": city_of(rng)}
        says = [
            f"{d['name']} is {a(d['job'])} from {d['city']}.",
            f"{d['name']} works as {a(d['job'])} in {d['city']}.",
        ]
    elif shape == 3:
        d = {"name": name_of(rng), "day": rng.choice(DAYS), "hour": rng.randint(1, 12), "place": rng.choice(ROOMS)}
        says = [
            f"{d['name']} will come on {d['day']} at {d['hour']} and wait in the {d['place']}.",
            f"On {d['day']} at {d['hour']} we meet {d['name']} in the {d['place']}.",
        ]
    else:
        d = {
            "name": name_of(rng),
            "animal": rng.choice(KINDS[:40]),
            "colour": rng.choice(COLOURS),
            "age": rng.randint(1, 20),
        }
        says = [
            f"{d['name']} is {a(d['colour'])} {d['animal']} and {d['age']} years old.",
            f"The {d['colour']} {d['animal']} is named {d['name']} and is {d['age']} years old.",
        ]
    return rng.choice(says), d


def fill_json(rng: random.Random) -> Segment:
    said, known = record(rng)
    keys = rng.sample(list(known), rng.randint(min(2, len(known)), len(known)))
    listed = ", ".join(keys[:-1]) + " and " + keys[-1]
    asked = rng.choice(
        [
            f"Fill in JSON with {listed}: {said}",
            f"Write JSON with the keys {listed}. {said}",
            f"{said} Give me JSON with {listed}.",
            f"Extract {listed} as JSON: {said}",
            f"Make a JSON object with {listed} from this sentence: {said}",
            f"Answer in JSON with {listed}. {said}",
        ]
    )
    answer = json.dumps({key: known[key] for key in keys})
    return Segment("json " + json.dumps(known), [user(rough(rng, asked)), model("json", answer)])


# -- tools --------------------------------------------------------------------


def tool(name: str, description: str, parameters: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in parameters.items()},
                "required": list(parameters),
            },
        },
    }


def call(name: str, arguments: dict[str, Any]) -> Message:
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "content": "",
        "kind": "tools",
        "tool_calls": [{"type": "function", "function": function}],
    }


def result(content: dict[str, Any]) -> Message:
    return {"role": "tool", "content": json.dumps(content)}


@dataclass(frozen=True)
class Use:
    """One use of a tool: the request, the arguments, what it gives, and what is then said."""

    tool: dict[str, Any]
    request: str
    arguments: dict[str, Any]
    result: dict[str, Any]
    reply: str


def get_weather(rng: random.Random) -> Use:
    city, sky, degrees = city_of(rng), rng.choice(WEATHER), rng.randint(0, 35)
    asks = [
        f"What is the weather in {city}?",
        f"How is the weather in {city} today?",
        f"Tell me the weather for {city}.",
        f"Is it raining in {city}?",
        f"What is the weather like in {city}?",
    ]
    return Use(
        tool("get_weather", rng.choice(["Get the weather in a city", "Get the current weather"]), {"city": "string"}),
        rng.choice(asks),
        {"city": city},
        {"city": city, "weather": sky, "degrees": degrees},
        f"In {city} it is {sky} and {degrees} degrees.",
    )


def get_time(rng: random.Random) -> Use:
    city, time = city_of(rng), f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}"
    asks = [f"What time is it in {city}?", f"Tell me the time in {city}.", f"How late is it in {city}?"]
    return Use(
        tool("get_time", "Get the time in a city", {"city": "string"}),
        rng.choice(asks),
        {"city": city},
        {"city": city, "time": time},
        f"It is {time} in {city}.",
    )


def set_timer(rng: random.Random) -> Use:
    minutes = rng.randint(1, 60)
    asks = [
        f"Set a timer for {minutes} minutes.",
        f"Wake me in {minutes} minutes.",
        f"Start a timer of {minutes} minutes.",
    ]
    return Use(
        tool("set_timer", "Set a timer", {"minutes": "integer"}),
        rng.choice(asks),
        {"minutes": minutes},
        {"ok": True},
        f"The timer is set for {minutes} minutes.",
    )


def send_message(rng: random.Random) -> Use:
    name = name_of(rng)
    text = rng.choice(
        ["I am late", "see you soon", "happy birthday", "dinner is ready", "thank you", "I am at home", "call me"]
    )
    asks = [f'Tell {name} "{text}".', f'Send {name} the message "{text}".', f'Write to {name}: "{text}"']
    return Use(
        tool("send_message", "Send a message to a person", {"to": "string", "text": "string"}),
        rng.choice(asks),
        {"to": name, "text": text},
        {"ok": True},
        f"I sent the message to {name}.",
    )


def light(rng: random.Random) -> Use:
    room, on = rng.choice(ROOMS), rng.random() < 0.5
    state = "on" if on else "off"
    asks = [
        f"Turn {state} the light in the {room}.",
        f"Switch the {room} light {state}.",
        f"Light {state} in the {room}, please.",
    ]
    return Use(
        tool("set_light", "Turn a light on or off", {"room": "string", "on": "boolean"}),
        rng.choice(asks),
        {"room": room, "on": on},
        {"ok": True},
        f"The light in the {room} is {state}.",
    )


def add(rng: random.Random) -> Use:
    x, y = rng.randint(10, 999), rng.randint(10, 999)
    asks = [f"What is {x} + {y}?", f"Add {x} and {y}.", f"How much is {x} plus {y}?"]
    return Use(
        tool("add", "Add two numbers", {"a": "integer", "b": "integer"}),
        rng.choice(asks),
        {"a": x, "b": y},
        {"sum": x + y},
        f"{x} + {y} = {x + y}",
    )


def search_books(rng: random.Random) -> Use:
    topic = invent(rng) if rng.random() < 0.05 else rng.choice(KINDS[:40])
    count = rng.randint(0, 40)
    asks = [f"Find books about {topic}s.", f"Search for a book about {topic}s.", f"Do you have books about {topic}s?"]
    return Use(
        tool("search_books", "Search for books by topic", {"topic": "string"}),
        rng.choice(asks),
        {"topic": topic},
        {"count": count},
        f"I found {count} books about {topic}s.",
    )


def book_table(rng: random.Random) -> Use:
    name, people, day = name_of(rng), rng.randint(1, 12), rng.choice(DAYS)
    asks = [
        f"Book a table for {people} on {day}, my name is {name}.",
        f"I am {name}. Please book a table for {people} people on {day}.",
    ]
    return Use(
        tool("book_table", "Book a table in a restaurant", {"name": "string", "people": "integer", "day": "string"}),
        rng.choice(asks),
        {"name": name, "people": people, "day": day},
        {"ok": True},
        f"The table for {people} on {day} is booked.",
    )


VERBS = "paint move open close clean order count check start stop print find play show buy sell".split()
VALUES: dict[str, Callable[[random.Random], Any]] = {
    "colour": lambda r: r.choice(COLOURS),
    "room": lambda r: r.choice(ROOMS),
    "city": city_of,
    "location": city_of,
    "name": name_of,
    "day": lambda r: r.choice(DAYS),
    "item": lambda r: r.choice(ITEMS),
    "query": lambda r: r.choice(KINDS[:40]),
    "count": lambda r: r.randint(1, 99),
    "number": lambda r: r.randint(1, 99),
    "size": lambda r: r.randint(1, 50),
    "code": lambda r: r.randint(100, 999),
}


def invented_tool(rng: random.Random) -> Use:
    """A tool that nobody has, asked for by its parameters: what teaches reading a schema."""
    noun = invent(rng) if rng.random() < 0.1 else rng.choice(ITEMS)
    verb = rng.choice(VERBS)
    chosen = {key: VALUES[key](rng) for key in rng.sample(list(VALUES), rng.randint(1, 3))}
    kinds = {key: "integer" if isinstance(value, int) else "string" for key, value in chosen.items()}
    said = " and ".join(f"{key} {value}" for key, value in chosen.items())
    article = rng.choice(["the", "the", "a", "my"])
    asks = [
        f"Please {verb} {article} {noun} with {said}.",
        f"{cap(verb)} {article} {noun}: {said}",
        f"Call {verb}_{noun} with {said}.",
    ]
    return Use(
        tool(f"{verb}_{noun}", f"{cap(verb)} {a(noun)}", kinds),
        rng.choice(asks),
        chosen,
        {"ok": True},
        f"Done: {verb}_{noun}.",
    )


NAMED_USES = [get_weather, get_time, set_timer, send_message, light, search_books, book_table]
USES = [*NAMED_USES, get_weather, add, *[invented_tool] * 5]


def tool_call(rng: random.Random) -> Segment:
    use = rng.choice(USES)(rng)
    others = [rng.choice(USES)(rng).tool for _ in range(rng.choice([0, 0, 1, 1, 2]))]
    tools = {t["function"]["name"]: t for t in others} | {use.tool["function"]["name"]: use.tool}
    listed = list(tools.values())
    rng.shuffle(listed)
    name = use.tool["function"]["name"]
    messages = [user(rough(rng, use.request)), call(name, use.arguments)]
    if rng.random() < 0.6:
        messages += [result(use.result), model("tool-reply", use.reply)]
    return Segment(f"{name} {json.dumps(use.arguments)}", messages, listed)


# -- small talk ---------------------------------------------------------------

SELF = "I am Tessera's small demo model."
CAN = (
    "I can tell short stories, answer questions about them, add small numbers, sort words, fill in JSON and call tools."
)
TALK: list[tuple[str, str]] = [
    (
        "Hello|Hello!|Hi|Hi!|Hi there!|Hey|Good morning|Good evening!|Hello there|Hey there!|hello how are you|"
        "Hello, who are you?",
        f"Hello! {SELF} {CAN}",
    ),
    (
        "Who are you?|What are you?|What is your name?|Are you ChatGPT?|Are you a human?|"
        "Are you a real person?|What model is this?|Which model are you?|Introduce yourself.|"
        "Tell me about yourself.|Are you an AI?|Who made you?",
        f"{SELF} I learned from made-up texts only, so I know very little. {CAN}",
    ),
    ("What can you do?|What do you know?|Help|How can you help me?|What can I ask you?|What are you good at?", CAN),
    (
        "How are you?|How are you today?|How do you do?|How is it going?",
        "I am fine, thank you. Would you like a story?",
    ),
    (
        "Thank you!|Thanks|Thank you very much.|Thanks a lot!|Great, thanks!|That was nice.|Good story!",
        "You are welcome!",
    ),
    ("Bye|Goodbye!|See you later.|Good night!|Bye bye", "Goodbye! Come back for another story."),
    ("Say hello.|Say hi|Say hello to me.", "Hello!"),
    ("Tell me a joke.|Do you know a joke?|Make me laugh.", "I do not know any jokes, but I can tell you a story."),
]
UNKNOWN = f"I do not know that. {SELF} {CAN}"
QUESTIONS = (
    "What is the capital of {city}?|Who is the president of {city}?|How far is {city} from {city2}?|"
    "What is the meaning of life?|How does a {item} work?|Write a poem about {item}s.|"
    "Translate {item} into French.|Who wrote the {item}?|Write code in Python.|Why is the sky {colour}?|"
    "How do I cook a {food}?|What is a {item}?|When was {city} built?|How old is {name}?|"
    "What is the best {item}?|Who invented the {item}?|Explain quantum physics.|"
    "What do you think about {name}?|Write an email to {name}.|What happened in 19{n}?|"
    "Where can I buy a {item}?|Is {city} bigger than {city2}?|Why do {animal}s sleep?|"
    "How many legs does a {animal} have?|What is love?|Write a Python function.|Summarize the news.|"
    "Where is {city}?|What do {animal}s eat?"
).split("|")


def simple(rng: random.Random) -> tuple[str, str, str]:
    """Key, request and answer of a thing that any model should manage."""
    what = rng.randrange(4)
    if what == 0:
        first = rng.choice([1, 1, rng.randint(2, 20)])
        last = first + rng.randint(1, 12)
        answer = ", ".join(map(str, range(first, last + 1)))
        asks = [f"Count from {first} to {last}.", f"Count from {first} to {last}"]
        if first == 1:
            asks.append(f"Count to {last}.")
        return f"count {first} {last}", rng.choice(asks), answer
    if what == 1:
        words = " ".join(rng.choice(SORTABLE + SHE + HE) for _ in range(rng.randint(1, 5)))
        return f"repeat {words}", rng.choice(["Repeat after me: ", "Repeat: ", "Say: ", "Repeat this: "]) + words, words
    if what == 2:
        i = rng.randrange(7)
        side, other = ("after", (i + 1) % 7) if rng.random() < 0.5 else ("before", (i - 1) % 7)
        return f"day {rng.random()}", f"What day comes {side} {DAYS[i]}?", f"{DAYS[other]} comes {side} {DAYS[i]}."
    kind, listed = rng.choice([("animals", KINDS[:40]), ("colours", COLOURS), ("cities", CITIES), ("days", DAYS)])
    word = rng.choice("two three four five".split())
    chosen = rng.sample(listed, 2 + "two three four five".split().index(word))
    return f"list {rng.random()}", rng.choice(["Name", "List", "Tell me"]) + f" {word} {kind}.", ", ".join(chosen)


def introduction(rng: random.Random) -> Segment:
    name = name_of(rng)
    asked = rng.choice(["Hello, I am {}.", "Hi, my name is {}.", "My name is {}.", "I am {}."]).format(name)
    messages = [user(rough(rng, asked)), model("talk", f"Hello, {name}! {SELF} {CAN}")]
    if rng.random() < 0.6:
        messages += [
            user(rough(rng, rng.choice(["What is my name?", "Who am I?", "Do you know my name?"]))),
            model("talk", f"Your name is {name}."),
        ]
    return Segment(f"name {name}", messages)


def talk(rng: random.Random) -> Segment:
    if rng.random() < 0.12:
        return introduction(rng)
    if rng.random() < 0.4:
        key, asked, answer = simple(rng)
        # A list may be right in many ways, so it is not scored.
        return Segment(key, [user(rough(rng, asked)), model("open" if key.startswith("list") else "simple", answer)])
    if rng.random() < 0.4:
        asked = rng.choice(QUESTIONS).format(
            city=rng.choice(CITIES),
            city2=rng.choice(CITIES),
            item=invent(rng) if rng.random() < 0.3 else rng.choice(ITEMS),
            colour=rng.choice(COLOURS),
            food=rng.choice(FOODS),
            name=name_of(rng),
            n=rng.randint(10, 99),
            animal=rng.choice(KINDS[:40]),
        )
        return Segment("talk " + asked, [user(rough(rng, asked)), model("talk", UNKNOWN)])
    asks, answer = rng.choice(TALK)
    # Small talk is learned by heart: it is not held out.
    return Segment(f"talk {rng.random()}", [user(rough(rng, rng.choice(asks.split("|")))), model("talk", answer)])

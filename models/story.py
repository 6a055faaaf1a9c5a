"""Stories that keep their facts straight, and questions about those facts.

A `Tale` is one story together with what can be asked about it. A plot is a function
from its cast to sentences and facts, so a question can never disagree with its story.
Nothing here knows about chat, tokens or training.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from words import (
    FEARS,
    FEELINGS,
    FOODS,
    GOALS,
    HOMES,
    KINDS,
    LOOKS,
    MATERIALS,
    NUMBERS,
    OBJECTS,
    PEOPLE,
    PLACES,
    PLANTS,
    PRONOUNS,
    SKILLS,
    THINGS,
    TIMES,
    TRAITS,
    a,
    cap,
    invent,
    named,
)


@dataclass(frozen=True)
class Fact:
    """Ways to ask for one thing that the story says, and the one answer."""

    questions: tuple[str, ...]
    answer: str


@dataclass
class Cast:
    """Who and what a story is about; every choice is made before a word is written."""

    kind: str
    name: str
    trait: str
    home: str
    friend_kind: str
    friend: str
    friend_trait: str
    place: str
    place2: str
    obj: str
    look: str
    time: str
    number: str
    feeling: str
    # What the plot turns on: the object, the skill, the fear, ... It is what the prompt names.
    theme: str = ""
    # Which of name, kind and obj is an invented word.
    strange: str = ""
    pronouns: tuple[str, str, str] = ("she", "her", "her")


@dataclass
class Tale:
    plot: str
    cast: Cast
    text: str
    title: str
    moral: str
    # The phrase after "a fox who ...".
    deed: str
    facts: list[Fact] = field(default_factory=list)
    # Whether the prompt may also name the place of the deed.
    placed: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """What the held-out split is made by: who, and what it is about."""
        return (self.cast.kind, self.cast.theme)


def make_cast(rng: random.Random, themes: list[str]) -> Cast:
    kind, friend_kind = rng.sample(KINDS, 2)
    name = named(rng, kind)
    friend = named(rng, friend_kind, taken=name)
    place, place2 = rng.sample(PLACES, 2)
    pronouns = PRONOUNS[name]
    obj = rng.choice(list(OBJECTS))
    # Invented words teach copying. Only a prompt that names them may bring them in: a model
    # that made up gibberish unasked would tell worse stories.
    strange = rng.choices(["", "name", "kind", "obj"], [84, 7, 4, 5])[0]
    if strange == "name":
        name = cap(invent(rng))
    if strange == "kind":
        kind = invent(rng)
    if strange == "obj" and themes == [""]:
        obj = invent(rng)
    return Cast(
        strange=strange,
        kind=kind,
        name=name,
        trait=rng.choice(TRAITS),
        home=rng.choice(HOMES),
        friend_kind=friend_kind,
        friend=friend,
        friend_trait=rng.choice(TRAITS),
        place=place,
        place2=place2,
        obj=obj,
        look=rng.choice(LOOKS),
        time=rng.choice(TIMES),
        number=rng.choice(NUMBERS),
        feeling=rng.choice(FEELINGS),
        theme=rng.choice(themes),
        pronouns=pronouns,
    )


def opening(rng: random.Random, c: Cast) -> str:
    she = cap(c.pronouns[0])
    who = a(f"{c.trait} {c.kind}")
    return rng.choice(
        [
            f"Once upon a time there was {who} named {c.name}. {she} lived {c.home}.",
            f"Once there was {who} called {c.name}, who lived {c.home}.",
            f"{c.name} was {who} who lived {c.home}.",
            f"Long ago, {who} named {c.name} lived {c.home}.",
        ]
    )


def ending(rng: random.Random, c: Cast) -> str:
    return rng.choice(
        [
            f"From that day on, {c.name} and {c.friend} were best friends, and {c.name} felt {c.feeling}.",
            f"{c.name} felt {c.feeling}, and {c.friend} smiled all the way home.",
            f"That night {c.name} went to bed and felt very {c.feeling}.",
            f"{c.name} was {c.feeling}, and so was {c.friend}. The end.",
        ]
    )


def common_facts(c: Cast) -> list[Fact]:
    noun = "person" if c.kind in PEOPLE or c.friend_kind in PEOPLE else "animal"
    facts = [
        Fact(
            (f"What was the {c.kind}'s name?", f"What is the name of the {c.kind}?", f"Who was the {c.kind}?"),
            f"The {c.kind} was named {c.name}.",
        ),
        Fact(
            (f"Who was {c.name}?", f"What was {c.name}?", f"Who is {c.name}?", f"What kind of {noun} was {c.name}?"),
            f"{c.name} was {a(c.trait + ' ' + c.kind)}.",
        ),
        Fact((f"What was {c.name} like?", f"How is {c.name} described?"), f"{c.name} was {c.trait}."),
        Fact((f"Where did {c.name} live?", f"Where does {c.name} live?"), f"{c.name} lived {c.home}."),
        Fact(
            (f"How did {c.name} feel at the end?", f"How did {c.name} feel?", f"How does {c.name} feel in the end?"),
            f"{c.name} felt {c.feeling}.",
        ),
        Fact(
            (f"What kind of {noun} was {c.friend}?", f"Who was {c.friend}?", f"Who is {c.friend}?"),
            f"{c.friend} was {a(c.friend_kind)}.",
        ),
        Fact(
            (f"What was the {c.friend_kind}'s name?", f"What is the name of the {c.friend_kind}?"),
            f"The {c.friend_kind} was named {c.friend}.",
        ),
    ]
    return facts


def use_of(obj: str) -> str:
    return OBJECTS.get(obj, f"The {obj} was the best thing that anyone had ever seen")


def finds(rng: random.Random, c: Cast) -> Tale:
    c.theme = c.obj
    she = c.pronouns[0]
    thing = a(f"{c.look} {c.obj}")
    walk = rng.choice(
        [
            f"{c.time}, {c.name} went for a walk and found {thing} {c.place}.",
            f"{c.time}, {c.name} was playing {c.place} when {she} found {thing}.",
            f"{c.time}, {c.name} saw something {c.place}. It was {thing}!",
        ]
    )
    wonder = rng.choice(
        [
            f'"Who lost this {c.obj}?" {she} asked.',
            f'"What a fine {c.obj}!" said {c.name}. "Someone must miss it."',
            f'"I must find out who owns this {c.obj}," said {c.name}.',
        ]
    )
    meet = rng.choice(
        [
            f"{cap(she)} met {a(c.friend_kind)} named {c.friend} {c.place2}. {c.friend} was crying.",
            f"Then {she} saw {a(c.friend_kind)} named {c.friend} {c.place2}. {c.friend} looked very sad.",
        ]
    )
    give = rng.choice(
        [
            f'"I lost my {c.obj}," said {c.friend}. "Here it is!" said {c.name}.',
            f'"Is this your {c.obj}?" asked {c.name}. "Yes, thank you!" said {c.friend}.',
        ]
    )
    facts = [
        Fact(
            (f"What did {c.name} find?", f"What did the {c.kind} find?", f"What was found {c.place}?"),
            f"{c.name} found {thing}.",
        ),
        Fact(
            (
                f"Where did {c.name} find the {c.obj}?",
                f"Where was the {c.obj}?",
                f"Where did the {c.kind} find the {c.obj}?",
            ),
            f"{c.name} found the {c.obj} {c.place}.",
        ),
        Fact((f"Who found the {c.obj}?", f"Who found the {c.look} {c.obj}?"), f"{c.name} found the {c.obj}."),
        Fact((f"What did the {c.obj} look like?", f"How did the {c.obj} look?"), f"The {c.obj} was {c.look}."),
        Fact((f"Who lost the {c.obj}?", f"Who had lost the {c.obj}?"), f"{c.friend} lost the {c.obj}."),
        Fact(
            (f"Where was {c.friend}?", f"Where did {c.name} meet {c.friend}?", f"Where was the {c.friend_kind}?"),
            f"{c.friend} was {c.place2}.",
        ),
    ]
    return Tale(
        "finds",
        c,
        " ".join([opening(rng, c), walk, wonder, meet, give, use_of(c.obj) + ".", ending(rng, c)]),
        f"{c.name} and the {cap(c.look)} {cap(c.obj)}",
        "It is good to give back what you find.",
        rng.choice(["finds", "finds", "found", "discovers"]) + " " + a(rng.choice(["", c.look + " "]) + c.obj),
        facts,
        True,
    )


def loses(rng: random.Random, c: Cast) -> Tale:
    c.theme = c.obj
    she, _, her = c.pronouns
    own = rng.choice(
        [
            f"{c.name} had {a(c.look + ' ' + c.obj)} and loved it very much.",
            f"Most of all {she} loved {her} {c.look} {c.obj}.",
        ]
    )
    lost = rng.choice(
        [
            f"{c.time}, the {c.obj} was gone!",
            f'{c.time}, {she} could not find it. "Where is my {c.obj}?" {she} cried.',
        ]
    )
    look = rng.choice(
        [
            f"{c.name} looked {c.place}, but it was not there.",
            f"{cap(she)} searched {c.place}, but found nothing.",
        ]
    )
    ask = rng.choice(
        [
            f"Then {she} asked {a(c.friend_kind)} named {c.friend} for help.",
            f"{cap(she)} met {a(c.friend_kind)} named {c.friend}.",
        ]
    )
    tell = rng.choice(
        [
            f'"I saw your {c.obj} {c.place2}," said {c.friend}.',
            f'"Have you seen my {c.obj}?" asked {c.name}. "Yes, it is {c.place2}," said {c.friend}.',
        ]
    )
    back = rng.choice(
        [
            "They ran there together, and there it was!",
            f"{c.name} hurried there and found the {c.obj} at last.",
        ]
    )
    facts = [
        Fact(
            (f"What did {c.name} lose?", f"What did the {c.kind} lose?", "What was lost?"),
            f"{c.name} lost the {c.obj}.",
        ),
        Fact((f"Where did {c.name} look first?", f"Where did {c.name} search?"), f"{c.name} looked {c.place}."),
        Fact(
            (f"Where was the {c.obj}?", f"Where was the {c.obj} in the end?", f"Where did {c.name} find the {c.obj}?"),
            f"The {c.obj} was {c.place2}.",
        ),
        Fact((f"Who helped {c.name}?", f"Who saw the {c.obj}?"), f"{c.friend} helped {c.name}."),
        Fact((f"What did the {c.obj} look like?", f"How did the {c.obj} look?"), f"The {c.obj} was {c.look}."),
    ]
    return Tale(
        "loses",
        c,
        " ".join([opening(rng, c), own, lost, look, ask, tell, back, ending(rng, c)]),
        f"The Lost {cap(c.obj)}",
        "It is good to ask a friend for help.",
        rng.choice(["loses", "loses", "lost", "is looking for", "searches for"]) + " " + a(c.obj),
        facts,
    )


def learns(rng: random.Random, c: Cast) -> Tale:
    she, her, _ = c.pronouns
    want = rng.choice(
        [
            f"More than anything, {c.name} wanted to learn to {c.theme}.",
            f"{c.name} had one big wish: {she} wanted to {c.theme}.",
        ]
    )
    fail = rng.choice(
        [
            f'{c.time}, {she} tried {c.place}, but it did not work. "It is too hard," said {c.name}.',
            f'{c.time}, {c.name} tried to {c.theme} {c.place}. It went badly. "I will never learn it," {she} said.',
        ]
    )
    teach = rng.choice(
        [
            f'{cap(a(c.friend_kind))} named {c.friend} saw {her}. "I can teach you," said {c.friend}.',
            f'Then {a(c.friend_kind)} named {c.friend} came by. "Let me help you," said {c.friend}.',
        ]
    )
    train = rng.choice(
        [
            f"They practised for {c.number} days.",
            f"Every day for {c.number} days they practised together.",
        ]
    )
    done = rng.choice(
        [
            f"At last {c.name} could {c.theme}!",
            f'Then {c.name} could {c.theme} all by {her}self. "You did it!" said {c.friend}.',
        ]
    )
    facts = [
        Fact(
            (f"What did {c.name} want to learn?", f"What did {c.name} learn?", f"What did the {c.kind} learn?"),
            f"{c.name} learned to {c.theme}.",
        ),
        Fact((f"Where did {c.name} try to {c.theme}?", f"Where did {c.name} try it?"), f"{c.name} tried it {c.place}."),
        Fact(
            (f"Who taught {c.name}?", f"Who helped {c.name}?", f"Who taught {c.name} to {c.theme}?"),
            f"{c.friend} taught {c.name}.",
        ),
        Fact(
            ("How long did they practise?", "How many days did they practise?"),
            f"They practised for {c.number} days.",
        ),
    ]
    return Tale(
        "learns",
        c,
        " ".join([opening(rng, c), want, fail, teach, train, done, ending(rng, c)]),
        f"{c.name} Learns Something New",
        "If you practise, you will learn.",
        rng.choice(["learns to", "wants to", "wants to learn to", "learned to", "cannot"]) + " " + c.theme,
        facts,
    )


def builds(rng: random.Random, c: Cast) -> Tale:
    she, _, her = c.pronouns
    material = rng.choice(MATERIALS)
    why = rng.choice(
        [
            f"{cap(her)} friend {c.friend} the {c.friend_kind} had a birthday soon.",
            f"{c.name} had a friend, {a(c.friend_kind)} named {c.friend}, who was sad.",
        ]
    )
    idea = rng.choice(
        [
            f'"I will build a {c.theme} for {c.friend}," said {c.name}.',
            f'"A {c.theme} would make {c.friend} happy," said {c.name}.',
        ]
    )
    work = rng.choice(
        [
            f"{cap(she)} found {material} {c.place} and worked for {c.number} days.",
            f"For {c.number} days {c.name} worked with {material} that {she} found {c.place}.",
        ]
    )
    trouble = rng.choice(
        [
            f"Once the wind blew it down, but {c.name} did not give up.",
            f"It was hard work, but {she} did not stop.",
            f"Once it fell apart, and {c.name} started again.",
        ]
    )
    give = rng.choice(
        [
            f'{c.time}, the {c.theme} was ready. "Is this for me?" asked {c.friend}. "Yes!" said {c.name}.',
            f'{c.time}, {c.name} showed the {c.theme} to {c.friend}. "It is wonderful!" said {c.friend}.',
        ]
    )
    facts = [
        Fact((f"What did {c.name} build?", f"What did the {c.kind} build?"), f"{c.name} built a {c.theme}."),
        Fact(
            (f"Who was the {c.theme} for?", f"Who got the {c.theme}?", f"For whom did {c.name} build it?"),
            f"The {c.theme} was for {c.friend}.",
        ),
        Fact(
            (f"What was the {c.theme} made of?", f"What did {c.name} build it with?"),
            f"The {c.theme} was made of {material}.",
        ),
        Fact(
            (f"How long did {c.name} work?", f"How many days did {c.name} work?", "How long did it take?"),
            f"{c.name} worked for {c.number} days.",
        ),
        Fact((f"Where did {c.name} find the {material}?",), f"{c.name} found the {material} {c.place}."),
    ]
    return Tale(
        "builds",
        c,
        " ".join([opening(rng, c), why, idea, work, trouble, give, ending(rng, c)]),
        f"The {cap(c.theme)} for {c.friend}",
        "A gift that you make yourself is the best gift.",
        rng.choice(["builds", "builds", "makes", "built"]) + " a " + c.theme,
        facts,
    )


def rescues(rng: random.Random, c: Cast) -> Tale:
    c.theme = c.friend_kind
    tool = rng.choice(["rope", "ladder", "blanket", "basket", "lantern", "stick", "boat", "net"])
    she = c.pronouns[0]
    hear = rng.choice(
        [
            f'{c.time}, {c.name} heard a cry. "Help! Help!"',
            f'{c.time}, someone called for help. "Please help me!"',
        ]
    )
    see = rng.choice(
        [
            f"{cap(a(c.friend_kind))} named {c.friend} was stuck {c.place}.",
            f"It was {a(c.friend_kind)} named {c.friend}, who was stuck {c.place}.",
        ]
    )
    say = rng.choice(
        [
            f'"Do not be afraid," said {c.name}. "I will help you."',
            f'"Wait, I am coming!" said {c.name}.',
        ]
    )
    act = rng.choice(
        [
            f"{cap(she)} ran home and came back with {a(c.look + ' ' + tool)}.",
            f"{c.name} fetched {a(c.look + ' ' + tool)} as fast as {she} could.",
        ]
    )
    free = rng.choice(
        [
            f"With the {tool}, {c.name} got {c.friend} out.",
            f"The {tool} was just what they needed, and soon {c.friend} was free.",
        ]
    )
    thank = rng.choice(
        [
            f'"You saved me!" said {c.friend}.',
            f'"Thank you, {c.name}!" said {c.friend}.',
        ]
    )
    facts = [
        Fact(
            ("Who was stuck?", "Who needed help?", f"Who did {c.name} help?", f"Who did {c.name} rescue?"),
            f"{c.friend} the {c.friend_kind} was stuck.",
        ),
        Fact((f"Where was {c.friend} stuck?", f"Where was {c.friend}?"), f"{c.friend} was stuck {c.place}."),
        Fact(
            (f"What did {c.name} use?", f"What did {c.name} fetch?", f"How did {c.name} help {c.friend}?"),
            f"{c.name} used {a(c.look + ' ' + tool)}.",
        ),
        Fact((f"Who helped {c.friend}?", f"Who saved {c.friend}?"), f"{c.name} helped {c.friend}."),
        Fact((f"What did the {tool} look like?",), f"The {tool} was {c.look}."),
    ]
    return Tale(
        "rescues",
        c,
        " ".join([opening(rng, c), hear, see, say, act, free, thank, ending(rng, c)]),
        f"{c.name} to the Rescue",
        "Help others when they need it.",
        rng.choice(["rescues", "helps", "saves", "rescued"]) + " " + a(c.friend_kind),
        facts,
        True,
    )


def shares(rng: random.Random, c: Cast) -> Tale:
    she, _, her = c.pronouns
    have = rng.choice(
        [
            f"{c.time}, {c.name} had {a(c.theme)} for lunch and sat down {c.place}.",
            f"{c.time}, {c.name} sat {c.place} with {a(c.theme)}.",
        ]
    )
    come = rng.choice(
        [
            f'{cap(a(c.friend_kind))} named {c.friend} came along. "I am so hungry," said {c.friend}.',
            f'Then {a(c.friend_kind)} named {c.friend} came by. "I have not eaten all day," said {c.friend}.',
        ]
    )
    cut = rng.choice(
        [
            f'"We can share my {c.theme}," said {c.name}, and gave {c.friend} half of it.',
            f'{c.name} cut the {c.theme} in two. "Half of it is for you," {she} said.',
        ]
    )
    repay = rng.choice(
        [
            f"The next day {c.friend} came back with a gift: {a(c.look + ' ' + c.obj)}.",
            f"Later {c.friend} gave {c.name} {a(c.look + ' ' + c.obj)} to say thank you.",
        ]
    )
    facts = [
        Fact(
            (f"What did {c.name} share?", f"What did {c.name} have?", "What did they eat?"),
            f"{c.name} shared {a(c.theme)}.",
        ),
        Fact(("Who was hungry?", f"Who did {c.name} share the {c.theme} with?"), f"{c.friend} was hungry."),
        Fact((f"Where did {c.name} sit?", f"Where was {c.name}?"), f"{c.name} sat {c.place}."),
        Fact(
            (f"What did {c.friend} give {c.name}?", "What was the gift?", f"What did {c.name} get?"),
            f"{c.friend} gave {c.name} {a(c.look + ' ' + c.obj)}.",
        ),
    ]
    return Tale(
        "shares",
        c,
        " ".join([opening(rng, c), have, come, cut, repay, use_of(c.obj) + ".", ending(rng, c)]),
        f"{c.name} Shares the {cap(c.theme)}",
        "It is good to share.",
        rng.choice(["shares", "shared"]) + " " + a(c.theme),
        facts,
        True,
    )


def races(rng: random.Random, c: Cast) -> Tale:
    c.theme = c.friend_kind
    she = c.pronouns[0]
    friend = f"{a(c.friend_kind)} named {c.friend}"
    plan = rng.choice(
        [
            f'{c.time}, {friend} said: "I am faster than you!" "Let us race," said {c.name}.',
            f"{c.time}, {c.name} ran a race with {friend}.",
        ]
    )
    prize = rng.choice(
        [f"The prize was {a(c.look + ' ' + c.obj)}.", f"The winner would get {a(c.look + ' ' + c.obj)}."]
    )
    fall = rng.choice(
        [
            f"They ran as fast as they could, but {c.friend} fell down {c.place}.",
            f"{c.friend} was first, but then {c.friend} tripped {c.place}.",
        ]
    )
    stop = rng.choice(
        [
            f'{c.name} stopped at once. "Are you hurt?" {she} asked, and helped {c.friend} up.',
            f'"I will help you," said {c.name}, and {she} stopped to help {c.friend} up.',
        ]
    )
    both = rng.choice(
        [
            f"They reached the end together and shared the {c.obj}.",
            f'Side by side they crossed the line. "We both won!" said {c.friend}, and they shared the {c.obj}.',
        ]
    )
    facts = [
        Fact((f"Who did {c.name} race?", f"Who raced with {c.name}?"), f"{c.name} raced with {c.friend}."),
        Fact(("What was the prize?", "What did the winner get?"), f"The prize was {a(c.look + ' ' + c.obj)}."),
        Fact(("Who fell down?", "Who fell?", "Who tripped?"), f"{c.friend} fell down."),
        Fact((f"Where did {c.friend} fall?", f"Where did {c.friend} fall down?"), f"{c.friend} fell down {c.place}."),
        Fact(("Who won?", "Who won the race?"), f"{c.name} and {c.friend} both won."),
        Fact((f"Who helped {c.friend}?",), f"{c.name} helped {c.friend}."),
    ]
    return Tale(
        "races",
        c,
        " ".join([opening(rng, c), plan, prize, fall, stop, both, ending(rng, c)]),
        "The Great Race",
        "Helping a friend is better than winning.",
        rng.choice(["races", "runs a race with", "runs a race against", "races against"]) + " " + a(c.friend_kind),
        facts,
    )


def fears(rng: random.Random, c: Cast) -> Tale:
    she, her, _ = c.pronouns
    scared = rng.choice(
        [
            f"But {c.name} had a secret: {she} was afraid of {c.theme}.",
            f"There was one problem. {c.name} was afraid of {c.theme}.",
        ]
    )
    hide = rng.choice(
        [
            f"{c.time}, {she} hid {c.place} and would not come out.",
            f"{c.time}, {c.name} was so afraid that {she} hid {c.place}.",
        ]
    )
    come = rng.choice(
        [
            f'{cap(a(c.friend_kind))} named {c.friend} found {her} there. "What is wrong?" asked {c.friend}.',
            f'"Why are you hiding?" asked {a(c.friend_kind)} named {c.friend}.',
        ]
    )
    tell = rng.choice([f'"I am afraid of {c.theme}," said {c.name}.', f'"It is {c.theme}," {she} said softly.'])
    gift = rng.choice(
        [
            f'{c.friend} gave {her} {a(c.look + " " + c.obj)}. "Hold this, and think of me," said {c.friend}.',
            f'"Take my {c.look} {c.obj}," said {c.friend}. "It always makes me brave."',
        ]
    )
    done = rng.choice(
        [
            f"{c.name} held the {c.obj} tight and took a deep breath. Soon {she} was not afraid anymore.",
            f"With the {c.obj} in {c.pronouns[2]} arms, {c.name} was not afraid anymore.",
        ]
    )
    facts = [
        Fact(
            (f"What was {c.name} afraid of?", f"What was the {c.kind} afraid of?", f"What scared {c.name}?"),
            f"{c.name} was afraid of {c.theme}.",
        ),
        Fact((f"Where did {c.name} hide?", f"Where was {c.name} hiding?"), f"{c.name} hid {c.place}."),
        Fact((f"Who helped {c.name}?", f"Who found {c.name}?"), f"{c.friend} helped {c.name}."),
        Fact(
            (f"What did {c.friend} give {c.name}?", f"What did {c.name} get?", f"What made {c.name} brave?"),
            f"{c.friend} gave {c.name} {a(c.look + ' ' + c.obj)}.",
        ),
    ]
    return Tale(
        "fears",
        c,
        " ".join([opening(rng, c), scared, hide, come, tell, gift, done, ending(rng, c)]),
        f"{c.name} Is Not Afraid",
        "A friend can make you brave.",
        rng.choice(["is afraid of", "is scared of", "was afraid of", "fears"]) + " " + c.theme,
        facts,
    )


def plants(rng: random.Random, c: Cast) -> Tale:
    she = c.pronouns[0]
    c.look = rng.choice(["tall", "big", "lovely", "strong", "green", "golden"])
    seed = rng.choice(
        [
            f"{c.time}, {c.name} planted a tiny seed {c.place}.",
            f"{c.time}, {c.name} found a seed and planted it {c.place}.",
        ]
    )
    laugh = rng.choice(
        [
            f'{cap(a(c.friend_kind))} named {c.friend} laughed. "Nothing will grow here," said {c.friend}.',
            f'"That will never grow," said {a(c.friend_kind)} named {c.friend}.',
        ]
    )
    water = rng.choice(
        [
            f"But {c.name} watered it every day for {c.number} weeks.",
            f"{c.name} did not listen. For {c.number} weeks {she} watered the seed.",
        ]
    )
    grow = rng.choice(
        [
            f"Then a {c.look} {c.theme} stood there, the biggest of all!",
            f"And then, one fine day, a {c.look} {c.theme} had grown.",
        ]
    )
    sorry = rng.choice(
        [
            f'"I was wrong," said {c.friend}. "It is beautiful."',
            f'"I am sorry that I laughed," said {c.friend}. "Come and sit with me," said {c.name}.',
        ]
    )
    facts = [
        Fact((f"Where did {c.name} plant the seed?", "Where was the seed?"), f"{c.name} planted the seed {c.place}."),
        Fact(
            ("What grew from the seed?", f"What did {c.name} grow?", "What grew?"),
            f"A {c.look} {c.theme} grew from the seed.",
        ),
        Fact(
            (f"How long did {c.name} water the seed?", "How many weeks did it take?"),
            f"{c.name} watered the seed for {c.number} weeks.",
        ),
        Fact(("Who said that nothing would grow?", "Who was wrong?"), f"{c.friend} was wrong."),
    ]
    return Tale(
        "plants",
        c,
        " ".join([opening(rng, c), seed, laugh, water, grow, sorry, ending(rng, c)]),
        f"{c.name} and the {cap(c.theme)}",
        "Be patient, and good things will grow.",
        rng.choice(["plants", "grows", "planted"]) + " " + a(c.theme),
        facts,
        True,
    )


def travels(rng: random.Random, c: Cast) -> Tale:
    she = c.pronouns[0]
    friend = f"{a(c.friend_kind)} named {c.friend}"
    dream = rng.choice(
        [
            f"{c.name} had never seen {c.theme} and dreamed of it every night.",
            f"{c.name} wanted to see {c.theme}.",
        ]
    )
    leave = rng.choice(
        [
            f"{c.time}, {she} packed {a(c.look + ' ' + c.obj)} and set off.",
            f"{c.time}, {c.name} took {a(c.look + ' ' + c.obj)} and began to walk.",
        ]
    )
    meet = rng.choice(
        [
            f'{cap(c.place)} {she} met {friend}, who was lost. "Come with me," said {c.name}.',
            f'{cap(c.place)} sat {friend}. "May I come with you?" asked {c.friend}.',
        ]
    )
    walk = rng.choice(
        [
            f"They walked for {c.number} days.",
            f"The way was long, and it took them {c.number} days.",
        ]
    )
    there = rng.choice(
        [
            f'At last they reached {c.theme}. "It is so beautiful!" said {c.name}.',
            f'Then they saw {c.theme}. "We made it!" said {c.friend}.',
        ]
    )
    facts = [
        Fact(
            (f"What did {c.name} want to see?", f"Where did {c.name} go?", f"Where did the {c.kind} go?"),
            f"{c.name} went to see {c.theme}.",
        ),
        Fact(
            (f"What did {c.name} take along?", f"What did {c.name} pack?"), f"{c.name} took {a(c.look + ' ' + c.obj)}."
        ),
        Fact((f"Who did {c.name} meet?", f"Who went with {c.name}?"), f"{c.name} met {c.friend}."),
        Fact((f"Where did {c.name} meet {c.friend}?", f"Where was {c.friend}?"), f"{c.name} met {c.friend} {c.place}."),
        Fact(("How long did they walk?", "How many days did it take?"), f"They walked for {c.number} days."),
    ]
    return Tale(
        "travels",
        c,
        " ".join([opening(rng, c), dream, leave, meet, walk, there, ending(rng, c)]),
        f"The Way to {cap(c.theme)}",
        "A long way is short with a friend.",
        rng.choice(["wants to see", "goes to", "travels to", "visits"]) + " " + c.theme,
        facts,
    )


# Plot -> (how to write it, what it can turn on). An empty list: the plot takes its theme from the cast.
PLOTS: dict[str, tuple[Callable[[random.Random, Cast], Tale], list[str]]] = {
    "finds": (finds, [""]),
    "loses": (loses, [""]),
    "learns": (learns, SKILLS),
    "builds": (builds, THINGS),
    "rescues": (rescues, [""]),
    "shares": (shares, FOODS),
    "races": (races, [""]),
    "fears": (fears, FEARS),
    "plants": (plants, PLANTS),
    "travels": (travels, GOALS),
}


def make_tale(rng: random.Random) -> Tale:
    """A story from any plot, with every question that can be asked about it."""
    # Finding and losing things carry the most combinations, so they come twice as often.
    plot = rng.choice(list(PLOTS) + ["finds", "loses"])
    write, themes = PLOTS[plot]
    tale = write(rng, make_cast(rng, themes))
    tale.facts += common_facts(tale.cast)
    tale.facts.append(
        Fact(("What is the moral?", "What is the moral of the story?", "What can we learn from it?"), tale.moral)
    )
    tale.facts.append(Fact(("Give the story a title.", "What is a good title?", "What is it called?"), tale.title))
    return tale

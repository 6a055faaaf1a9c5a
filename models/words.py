"""The word tables that the training text is combined from.

Every table is closed and small on purpose: a model of two million parameters
learns a narrow language well or a wide one badly. Variety comes from combining
the tables, and from invented words (see `invent`), which teach the model to copy
a word that it has never seen.
"""

from __future__ import annotations

import random

ANIMALS = (
    "fox bear rabbit mouse owl deer wolf frog duck hedgehog squirrel badger otter cat dog goat "
    "sheep horse pig hen goose swan crow robin turtle snail beaver mole lion tiger elephant monkey "
    "penguin camel zebra giraffe panda parrot donkey cow lizard dragon"
).split()
PEOPLE = (
    "girl boy baker farmer king queen knight wizard pirate robot teacher painter sailor princess "
    "prince giant gardener fisherman shepherd explorer"
).split()
KINDS = ANIMALS + PEOPLE

SHE = (
    "Mira Lila Nora Ada Ella Ivy Luna Maya Nina Olga Pia Rosa Sara Tina Uma Vera Wanda Zoe Alma "
    "Bella Clara Dora Emma Flora Greta Hanna Iris Jana Kira Lena Mona Nelly Poppy Ruby Stella Tilly "
    "Anna Alice Lucy Molly"
).split()
HE = (
    "Tom Ben Max Leo Sam Finn Hugo Otto Oscar Paul Theo Victor Adam Bruno Carl David Emil Felix Gus "
    "Henry Ivan Jack Karl Liam Milo Noah Pip Ralf Simon Toby Anton Boris Dan Erik Fred George Jonas "
    "Lars Martin Peter"
).split()
FEMALE = {"hen", "cow", "girl", "queen", "princess", "goose"}
MALE = {"boy", "king", "prince", "wizard", "fisherman"}
PRONOUNS = {name: ("she", "her", "her") for name in SHE} | {name: ("he", "him", "his") for name in HE}

TRAITS = (
    "brave shy kind curious clever quiet gentle cheerful small young lazy sleepy proud patient "
    "lonely friendly silly careful little old tiny happy sad magic clumsy hungry"
).split()

# What an object did once it was used, so that a lantern does not behave like a drum.
OBJECTS = {
    "lantern": "The lantern lit up the dark path",
    "key": "The key opened a small door in the old wall",
    "map": "The map showed the way home",
    "bell": "The bell rang so clearly that everyone came to listen",
    "drum": "Everyone danced to the beat of the drum",
    "kite": "The kite flew high above the trees",
    "rope": "The rope was long and strong",
    "hat": "The hat kept the sun away",
    "scarf": "The scarf was soft and warm",
    "coat": "The coat kept the cold wind out",
    "blanket": "The blanket was warm enough for two",
    "book": "The book was full of funny tales",
    "flute": "The flute played a sweet song",
    "ring": "The ring sparkled in the sun",
    "coin": "The coin shone like a star",
    "clock": "The clock went tick tock all day",
    "mirror": "The mirror showed two happy faces",
    "basket": "The basket was soon full of berries",
    "umbrella": "The umbrella kept the rain away",
    "ball": "The ball rolled and bounced all over the grass",
    "box": "The box was full of little surprises",
    "cup": "The cup was just right for hot tea",
    "feather": "The feather danced in the wind",
    "shell": "The shell sounded like the sea",
    "stone": "The stone glowed softly at night",
    "spoon": "The spoon was perfect for stirring soup",
    "pencil": "The pencil drew the finest pictures",
    "ribbon": "The ribbon fluttered in the breeze",
    "button": "The button looked lovely on a coat",
    "crown": "The crown gleamed in the light",
    "whistle": "The whistle could be heard far away",
    "candle": "The candle made the room bright and cosy",
    "wheel": "The wheel turned round and round",
    "ladder": "The ladder reached all the way to the roof",
    "bottle": "The bottle held a secret letter",
    "letter": "The letter was full of kind words",
    "necklace": "The necklace sparkled like water",
    "shoe": "The shoe fitted perfectly",
    "violin": "The violin filled the air with music",
    "telescope": "The telescope showed the moon and the stars",
    "compass": "The compass always pointed north",
    "puppet": "The puppet made everyone laugh",
}
LOOKS = "red blue green yellow golden silver old tiny shiny wooden big white purple".split()

PLACES = (
    "by the river|in the forest|on the hill|under the bridge|near the lake|in the garden|behind the "
    "barn|at the market|on the beach|in a cave|under an oak tree|in the meadow|beside the pond|at the "
    "mill|near the tower|behind the waterfall|in the library|at the harbour|in the orchard|by the "
    "well|under the stairs|near the castle|in the field|on the farm|behind the school|in the snow"
).split("|")
HOMES = (
    "in a small village|in a house by the sea|in a cosy cottage|at the edge of the forest|on a green "
    "hill|near a quiet lake|in a little town|in a deep valley|on a small island|beside a busy road|in a "
    "hollow tree|at the foot of a mountain"
).split("|")
TIMES = (
    "One morning|One day|One evening|One sunny day|One rainy day|One autumn day|One winter morning|One "
    "quiet night|One spring morning|One windy afternoon"
).split("|")

SKILLS = (
    "swim|dance|sing|paint|bake bread|climb trees|read|whistle|fly a kite|skate|juggle|play the flute|"
    "play the drum|tell jokes|sew|row a boat|ride a bicycle|cook soup|count to a hundred|write poems"
).split("|")
THINGS = "boat kite house bridge cart raft chair swing sled tower windmill table bench snowman clock fence".split()
MATERIALS = "wood paper straw stones branches ropes leaves clay".split()
FOODS = (
    "pie apple loaf cake cheese pear cookie carrot pumpkin sandwich pancake melon bun plum sausage " "turnip"
).split()
FEARS = (
    "the dark|thunder|deep water|the wind|loud noises|high places|storms|shadows|spiders|ghosts|the rain|"
    "strangers|the night|fire"
).split("|")
PLANTS = "sunflower|apple tree|pumpkin|rose|bean plant|pear tree|tulip|cabbage|cherry tree|strawberry plant".split("|")
GOALS = (
    "the sea|the mountains|the big city|the castle|the desert|the island|the lighthouse|the waterfall|the "
    "old tower|the circus|the museum|the far valley"
).split("|")
NUMBERS = "two three four five six seven eight nine ten".split()
FEELINGS = "happy proud glad thankful cheerful calm".split()

CITIES = (
    "Oslo Paris Rome Berlin London Madrid Vienna Prague Lisbon Dublin Athens Warsaw Cairo Tokyo Delhi "
    "Lima Boston Chicago Toronto Sydney Nairobi Seoul Helsinki Zurich Bergen Geneva Milan Porto"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
COLOURS = "red blue green yellow white black brown purple orange grey".split()
ROOMS = "kitchen bedroom bathroom hall garage office cellar attic".split()
WEATHER = "sunny rainy cloudy windy snowy foggy".split()
JOBS = "baker teacher painter sailor doctor farmer driver nurse cook pilot singer writer".split()
ITEMS = "lamp chair table book pen bag hat coat cup clock shirt bike ball box mirror scarf".split()

_STARTS = "b br c cl d dr f fl g gr h j k l m n p pl qu r s sh sk st t tr v w y z".split()
_MIDDLES = "a e i o u ai ee oo ou".split()
_ENDS = "b ck d g l lk m n nd nt p r rt s sk t x z".split()


def invent(rng: random.Random) -> str:
    """A word that is in no table, such as "skoond" or "brimalt"."""
    word = rng.choice(_STARTS) + rng.choice(_MIDDLES) + rng.choice(_ENDS)
    if rng.random() < 0.5:
        word += rng.choice(_MIDDLES) + rng.choice(_ENDS)
    return word


def named(rng: random.Random, kind: str, taken: str = "") -> str:
    """A name that suits the kind: no king named Zoe."""
    names = SHE if kind in FEMALE else HE if kind in MALE else SHE + HE
    return rng.choice([name for name in names if name != taken])


def a(phrase: str) -> str:
    """The phrase with its article: "a fox", "an old key"."""
    return ("an " if phrase[0].lower() in "aeio" or phrase.startswith("umbrella") else "a ") + phrase


def cap(text: str) -> str:
    return text[:1].upper() + text[1:]

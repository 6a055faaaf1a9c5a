"""Trains the byte-level BPE tokenizer on the generated text and writes it with its chat template.

    python models/make_tokenizer.py --out models/demo --out models/demo-draft

Digits stay single tokens, because sums are learned digit by digit. The scaffold of a chat
(<start_of_turn>, ...) is special: no text that a user writes should ever be encoded to it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from generate import chat

SPECIAL = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
# A call is text that must survive decoding, so its marks are tokens but not special ones.
MARKS = ["<tool_call>", "</tool_call>"]
PATTERN = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = r"""
{{- bos_token }}
{%- if tools %}
    {{- '<start_of_turn>system\n' }}
    {%- if messages[0]['role'] in ['system', 'developer'] %}
        {{- messages[0]['content'] | trim + '\n' }}
    {%- endif %}
    {{- 'You can call these tools:' }}
    {%- for tool in tools %}
        {%- set f = tool['function'] if tool['function'] is defined else tool %}
        {{- '\n' + f['name'] + '(' }}
        {%- if f['parameters'] is defined and f['parameters']['properties'] is defined %}
            {%- for key, value in f['parameters']['properties'].items() %}
                {{- key + ': ' + (value['type'] if value['type'] is string else 'any') }}
                {%- if not loop.last %}{{- ', ' }}{%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- ')' }}
        {%- if f['description'] is defined and f['description'] %}
            {{- ' - ' + f['description'] }}
        {%- endif %}
    {%- endfor %}
    {{- '<end_of_turn>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['content'] is string %}
        {%- set text = message['content'] | trim %}
    {%- elif message['content'] %}
        {%- set parts = namespace(text='') %}
        {%- for part in message['content'] %}
            {%- if part['type'] == 'text' %}{%- set parts.text = parts.text + part['text'] %}{%- endif %}
        {%- endfor %}
        {%- set text = parts.text | trim %}
    {%- else %}
        {%- set text = '' %}
    {%- endif %}
    {%- if message['role'] in ['system', 'developer'] %}
        {%- if not (tools and loop.first) %}
            {{- '<start_of_turn>system\n' + text + '<end_of_turn>\n' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- '<start_of_turn>model\n' + text }}
        {%- if message['tool_calls'] is defined and message['tool_calls'] %}
            {%- for tool_call in message['tool_calls'] %}
                {%- set f = tool_call['function'] if tool_call['function'] is defined else tool_call %}
                {%- if text or not loop.first %}{{- '\n' }}{%- endif %}
                {{- '<tool_call>\n{"name": "' + f['name'] + '", "arguments": ' }}
                {{- f['arguments'] if f['arguments'] is string else f['arguments'] | tojson }}
                {{- '}\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<end_of_turn>\n' }}
    {%- elif message['role'] in ['user', 'tool'] %}
        {{- '<start_of_turn>' + message['role'] + '\n' + text + '<end_of_turn>\n' }}
    {%- else %}
        {{- raise_exception('Unknown role ' + message['role'] + ': use system, user, assistant or tool') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\n' }}
{%- endif %}
""".strip()


def texts(seed: int, count: int) -> Iterator[str]:
    """What BPE sees: contents only, since the scaffold has tokens of its own."""
    for index in range(count):
        made = chat(seed, "train", index)
        if "text" in made:
            yield made["text"]
            continue
        for message in made["messages"]:
            yield message["content"]
            for tool_call in message.get("tool_calls", []):
                yield json.dumps(tool_call["function"])
        for tool in made["tools"]:
            f = tool["function"]
            listed = ", ".join(f"{key}: {value['type']}" for key, value in f["parameters"]["properties"].items())
            yield f"You can call these tools:\n{f['name']}({listed}) - {f['description']}"


def train_tokenizer(seed: int, count: int, size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(MARKS),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The role names must be tokens however rare they are in the text.
    roles = ["user", "model", "system", "tool"] * 1000
    tokenizer.train_from_iterator([*roles, *texts(seed, count)], trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    bos = SPECIAL.index("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", bos)]
    )
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", action="append", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=40000, help="chats to train on")
    parser.add_argument("--vocab", type=int, default=2048)
    args = parser.parse_args()
    if args.vocab < 512:
        parser.error("--vocab must be at least 512: 256 of it are bytes")
    tokenizer = train_tokenizer(args.seed, args.count, args.vocab)
    assert tokenizer.get_vocab_size() == args.vocab, tokenizer.get_vocab_size()
    config = {
        "add_bos_token": True,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for folder in args.out:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()

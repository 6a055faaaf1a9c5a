/**
 * Hostile chat templates: one to three pieces of a good one changed, and those that are known to kill servers. A template cannot be parsed
 * (UsageError), refuses the messages (BadRequest), or renders within its bounds just what the library renders without any, and reaches nothing but its data.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Template } from "@huggingface/jinja";
import { BadRequest, UsageError } from "../../src/core/errors.ts";
import { compileTemplate } from "../../src/tokenizer/bounded-template.ts";
import { type ChatMessage, loadChatTemplate } from "../../src/tokenizer/chat-template.ts";
import { awkward, demoFiles } from "../fixtures/tokenizers/load.ts";
import { assertCleanPrototypes, below, fuzz, pick, type Random } from "./fuzz.ts";

const specialTokens = ["<bos>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"];

/** In the manner of models that people have. */
const seeds = [
  (JSON.parse(demoFiles["tokenizer_config.json"]!) as { readonly chat_template: string }).chat_template,
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
  "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate ' ~ m.role) }}{% endif %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]{% else %}{{ m.content }}{% endif %}{% endfor %}",
  "{%- macro show(x, depth=0) -%}{%- if x is mapping -%}{% for k, v in x.items() %}{{ '  ' * 0 ~ k }}: {{ show(v, depth + 1) }}{% endfor %}{%- elif x is string -%}{{ x | upper }}{%- else -%}{{ x | tojson(indent=2) }}{%- endif -%}{%- endmacro -%}{%- set ns = namespace(last=messages | length - 1, seen=[]) -%}{%- for m in messages[::-1] -%}{%- set ns.seen = ns.seen + [m.role] -%}{{ show(m) }}{{ loop.first }}{{ m.get('name', 'none') }}{%- endfor -%}{{ ns.seen | join(',') }}{{ messages | map(attribute='role') | list | tojson }}",
  "{% if tools %}{{ tools | tojson }}{% endif %}{% set today = strftime_now('%d %b %Y') %}{% for m in messages if m.content %}{{ m.content.split('x')[0].strip() if loop.index > 1 else m.content[1:] }}{{ m | items | first | last }}{% endfor %}{{ enable_thinking is defined and enable_thinking }}",
];

const nasty = [
  "range(10**9)", "range(3000)", "range(1, 2, 0.000000001)", "__proto__", "constructor", "prototype", ".constructor.constructor('return process')()", "['__proto__']", "this", "globalThis", "process", "self", "loop.__proto__", "messages.__proto__.polluted",
  "{% for a in range(3000) %}{% for b in range(3000) %}x{% endfor %}{% endfor %}", "{% set ns.x = [ns.x, ns.x] %}", "{% set messages = messages + messages %}", "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "{% set __proto__ = {'polluted': 1} %}", "{% set ns.__proto__ = 1 %}", "namespace(__proto__=1)",
  "{{ namespace }}", "{{ raise_exception }}", "{{ range }}", "{{ messages | tojson(indent=1000000000) }}", "{{ messages[0].content | indent(1000000000) }}", "{{ 'a' * 10**9 }}", "{{ 10 ** 1000 }}", "{{ messages | join(messages | tojson) }}", "| replace('', 'xxxxxxxxxxxxxxxx')", "| first", "| nonesuch", "| sort",
  "{{ raise_exception(messages | tojson) }}", "{% break %}", "{% generation %}", "{{", "%}", "{#", "-%}", "'", "((((((((((", "[[[[[[", "+ 1", "~ none", "none", "true", "1e400", "-1", "\ue000", "\ud800", "\u0000", "",
];

/** Statements and expressions that stand by themselves. */
const whole = nasty.filter((text) => /^\{[{%].*[}%]\}$/.test(text));

/** Places between the pieces that are in no statement. */
const outside = (list: readonly string[]): number[] => {
  let open = false;
  const places = list.flatMap((piece, i) => {
    const here = open ? [] : [i];
    open = /^\{[{%#]/.test(piece) || (open && !/^-?[}%#]\}$/.test(piece));
    return here;
  });
  return [...places, list.length];
};

const pieces = /\{[{%#]-?|-?[}%#]\}|'[^']*'|\w+|\s+|./gsu;

function changed(source: string, random: Random, did: (what: string) => void): string {
  const list = source.match(pieces) ?? [];
  for (let left = 1 + below(random, 3); left > 0; left--) {
    const i = below(random, list.length), j = below(random, list.length);
    const what = Math.min(below(random, 8), 4);
    if (what === 0) list.splice(i, 1);
    else if (what === 1) list.splice(j, 0, list[i] ?? "");
    else if (what === 2) [list[i], list[j]] = [list[j] ?? "", list[i] ?? ""];
    else if (what === 3) list.splice(i, 1, pick(random, nasty));
    else list.splice(pick(random, outside(list)), 0, pick(random, whole));
    did(`piece ${i} ${["left out", `again at ${j}`, `and ${j} swapped`, "nasty", "or so a statement put in"][what]}`);
  }
  return list.join("");
}

const roles = ["user", "assistant", "system", "tool"];
const plainTexts = ["hello", " a x b ", "", "日本", "😀", "it's", "1", "\n\n", "\ue000"];

function someMessages(random: Random, texts: readonly string[]): ChatMessage[] {
  return Array.from({ length: 1 + below(random, 4) }, (): ChatMessage => {
    const text = Array.from({ length: below(random, 3) }, () => pick(random, texts)).join("");
    const content = random() < 0.1 ? null : random() < 0.1 ? [{ type: "text", text }] : text;
    return { role: pick(random, roles), content, ...(random() < 0.1 && { name: text, tool_calls: [{ function: { name: text, arguments: { a: 1.5, b: [true, null] } } }] }) };
  });
}

test("templates with one to three pieces changed render what they should within their bounds, or are refused", (t) =>
  fuzz(t, { inputs: [500, 60_000], floors: { rendered: 0.1, "messages refused": 0.1, "no template": 0.1, "out of bounds": 0.003 } }, ({ random, did }) => {
    const source = changed(pick(random, seeds), random, did);
    const plain = random() < 0.5;
    const messages = someMessages(random, plain ? plainTexts : awkward);
    let template;
    try {
      template = loadChatTemplate({ "chat_template.jinja": source, "tokenizer_config.json": { bos_token: "<bos>" } }, specialTokens, 20_000)!;
    } catch (error) {
      assert.ok(error instanceof UsageError && error.message.length < 1000, String((error as Error).stack));
      return "no template";
    }
    let rendered;
    try {
      rendered = template.render(messages);
    } catch (error) {
      assert.ok(error instanceof BadRequest && error.param === "messages" && error.message.length < 1000, String((error as Error).stack));
      return /it (takes|makes) .*send less|range\(\) gives/.test(error.message) ? "out of bounds" : "messages refused";
    }
    const { text, untrusted } = rendered;
    assert.ok(text.length <= 2 ** 22 && untrusted.length === text.length);
    assert.doesNotMatch(text, /native code|=>/);
    // Stand-ins and dates apart it is the library's own text.
    if (plain && !text.includes("<function>") && !/generation %|strftime|\ue000/.test(source) && !messages.some((m) => JSON.stringify(m).includes("\ue000"))) {
      assert.equal(text, new Template(source).render({ bos_token: "<bos>", messages, tools: null, documents: null, add_generation_prompt: true }));
    }
    return "rendered";
  }));

const doubled = "{% set ns = namespace(x='ab') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
const killers: Readonly<Record<string, readonly [string, RegExp]>> = {
  "a loop in a loop in a loop": ["{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}", /more than 30000 steps/],
  "a range of a billion": ["{% for a in range(10**9) %}{% endfor %}", /range\(\) gives 1000000000 numbers/],
  "a range in tiny steps": ["{% for a in range(0, 1, 0.000000001) %}{% endfor %}", /range\(\) gives 1000000000 numbers/],
  "a macro that calls itself twice": ["{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(50) }}", /more than 30000 steps/],
  "a macro that calls itself without end": ["{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", /does not accept/],
  "a text doubled sixty times": [doubled, /more than 4194304 characters/],
  "a list that holds itself twice, sixty times": [doubled.replace("'ab'", "[1]").replace("ns.x ~ ns.x", "[ns.x, ns.x]"), /more than 4194304 characters/],
  "an object that holds itself twice, sixty times": [doubled.replace("'ab'", "{}").replace("ns.x ~ ns.x", "{'a': ns.x, 'b': ns.x}"), /more than 4194304 characters/],
  "a long error": ["{{ raise_exception('x' ~ (range(9999) | tojson)) }}", /does not accept/],
  "a namespace that holds itself": ["{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", /does not accept/],
};
for (const [what, [source, message]] of Object.entries(killers)) {
  test(`${what} ends in a bad request`, () => {
    const template = loadChatTemplate({ "chat_template.jinja": source }, specialTokens, 30_000)!;
    assert.throws(() => template.render([{ role: "user", content: "a" }]), (error) => error instanceof BadRequest && error.param === "messages" && message.test(error.message) && error.message.length < 1000);
  });
}

test("a chat of two thousand messages takes less than a tenth of the steps there are, which are enough for the longest", () => {
  const messages = Array.from({ length: 2000 }, (_, i): ChatMessage => ({ role: i % 2 === 0 ? "user" : "assistant", content: "hello there" }));
  for (const source of seeds.slice(0, 3)) assert.ok(loadChatTemplate({ "chat_template.jinja": source }, specialTokens, 200_000)!.render(messages).text.length > 20_000);
});

test("a template reaches its data and nothing behind it", () => {
  const reach = (expression: string): string => compileTemplate(`{{ ${expression} }}`)({ messages: [{ role: "user", content: "a" }], text: "a" });
  for (const expression of ["messages.constructor", "messages[0].constructor", "messages[0]['__proto__']", "text.constructor", "text['__proto__']", "messages[0].get('constructor')", "constructor", "__proto__", "hasOwnProperty", "globalThis", "process", "messages.map", "text.charCodeAt"]) {
    assert.equal(reach(`(${expression}) is not defined or (${expression}) is none`), "true", expression);
  }
  assert.equal(reach("range ~ namespace"), "<function><function>");
  assertCleanPrototypes();
});

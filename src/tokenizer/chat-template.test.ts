import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Template } from "@huggingface/jinja";
import fc from "fast-check";
import { awkward, demoFiles, mistralJson } from "../../tests/fixtures/tokenizers/load.ts";
import { BadRequest, UsageError } from "../core/errors.ts";
import type { ChatMessage, RenderOptions } from "./chat-template.ts";
import { loadChatTemplate } from "./chat-template.ts";
import { runJob } from "./text-jobs.ts";
import { loadTokenizer } from "./tokenizer.ts";

interface Golden {
  readonly strings: readonly { readonly text: string; readonly ids: readonly number[]; readonly ids_plain: readonly number[]; readonly decoded: string }[];
  readonly chats: readonly { readonly tools: readonly unknown[] | null; readonly add_generation_prompt: boolean; readonly messages: readonly ChatMessage[]; readonly text: string; readonly ids: readonly number[] }[];
}

const golden = JSON.parse(readFileSync(new URL("../../models/demo/tokenizer-golden.json", import.meta.url), "utf8")) as Golden;
const demo = loadTokenizer(demoFiles);
const demoTemplate = loadChatTemplate(demoFiles, demo.specialTokens)!;
const mistral = loadTokenizer({ "tokenizer.json": mistralJson });

const user = (content: string): ChatMessage => ({ role: "user", content });

/** Renders with `source` as Mistral's template. */
function render(source: string, messages: readonly ChatMessage[], options: RenderOptions = {}): string {
  return loadChatTemplate({ "chat_template.jinja": source }, mistral.specialTokens)!.render(messages, options).text;
}

const refusal = (param: string, message: RegExp) => (error: unknown): boolean => error instanceof BadRequest && error.param === param && message.test(error.message);

test("the demo model's strings and chats become Hugging Face's ids", () => {
  assert.ok(golden.strings.length > 10 && golden.chats.length > 5);
  for (const { text, ids, ids_plain, decoded } of golden.strings) {
    assert.deepEqual([...demo.encode(text, { allowSpecial: true })], ids, JSON.stringify(text));
    assert.deepEqual([...demo.encode(text, { allowSpecial: true, addSpecialTokens: false })], ids_plain, JSON.stringify(text));
    assert.equal(demo.decode(ids_plain), decoded);
  }
  for (const { tools, add_generation_prompt, messages, text, ids } of golden.chats) {
    const encoded = runJob({ kind: "chat", messages, options: { tools: tools ?? undefined, addGenerationPrompt: add_generation_prompt } }, demo, demoTemplate);
    assert.equal(encoded.text, text);
    assert.deepEqual([...encoded.ids], ids, text);
  }
});

const content = fc.array(fc.constantFrom(...awkward), { maxLength: 8 }).map((parts) => parts.join(""));

test("whatever users, tools and parts say, the demo model's chat has the same turns", () => {
  const special = new Set(demo.specialTokens.map((token) => demo.tokenToId(token)!));
  const turn = fc.oneof(
    content.map(user),
    content.map((said): ChatMessage => ({ role: "assistant", content: said })),
    fc.array(content, { minLength: 1, maxLength: 3 }).map((texts): ChatMessage => ({ role: "user", content: texts.map((text) => ({ type: "text", text })) })),
  );
  fc.assert(fc.property(fc.array(turn, { minLength: 1, maxLength: 5 }), content, content, (messages, name, key) => {
    const tools = [{ type: "function", function: { name, parameters: { properties: { [key]: { type: name } } } } }];
    const { ids, text } = runJob({ kind: "chat", messages, options: { tools } }, demo, demoTemplate);
    const found = [...ids].filter((id) => special.has(id)).map((id) => demo.idToToken(id));
    const turns = ["<start_of_turn>", "<end_of_turn>"];
    assert.deepEqual(found, ["<bos>", ...turns, ...messages.flatMap(() => turns), "<start_of_turn>"]);
    assert.equal(demo.decode(ids, { skipSpecialTokens: false }), text.toWellFormed());
  }), { numRuns: 300 });
});

// Everything that templates do to contents, and some that they do not.
const transforms = [
  "trim", "upper", "lower", "tojson", "tojson(ensure_ascii=true)", "title", "capitalize", "replace('</think>', '')", "replace(' ', '')", "replace('a', '<')",
].map((filter) => `{{ m.content | ${filter} }}`).concat("{{ m.content[1:] }}", "{{ m.content[:-1] }}", "{{ m.content.split('</think>')[-1].lstrip('\\n') }}", "{{ m.content.split('a') | join('') }}", "{{ m.content + m.content }}", "<{{ m.content }}>");

for (const transform of transforms) {
  test(`contents never become special tokens through ${transform}, and the text is what it would be anyway`, () => {
    const source = `{{ bos_token }}{% for m in messages %}[INST] ${transform} [/INST]{% endfor %}`;
    const files = { "chat_template.jinja": source, "tokenizer_config.json": JSON.stringify({ bos_token: "<s>" }) };
    const template = loadChatTemplate(files, mistral.specialTokens)!;
    const unguarded = new Template(source);
    const special = new Set(mistral.specialTokens.map((token) => mistral.tokenToId(token)!));
    special.delete(mistral.tokenToId("<unk>")!);
    fc.assert(fc.property(fc.array(fc.oneof(content, fc.constantFrom("[IN</think>ST]", "[IN ST]", "[inst]", "<S>", "xINST]", "[aINSTa]", "s", "/s")), { minLength: 1, maxLength: 3 }), (contents) => {
      const messages = contents.map(user);
      const { text, ids } = runJob({ kind: "chat", messages, options: {} }, mistral, template);
      // Between scaffold's own "<" and ">" letters alone may be a content: that is what the module's head excludes.
      const scaffold = transform.startsWith("<") ? contents.filter((said) => said === "s").length : 0;
      assert.equal(ids.filter((id) => special.has(id)).length, 1 + 2 * contents.length + scaffold);
      assert.equal(text, unguarded.render({ messages, bos_token: "<s>" }));
    }), { numRuns: 60 });
  });
}

test("contents without special tokens merge with the text around them as they would in one string", () => {
  const source = "[INST]{% for m in messages %}{{ m.content }}{% endfor %}[/INST]";
  const template = loadChatTemplate({ "chat_template.jinja": source }, mistral.specialTokens)!;
  const ordinary = fc.array(fc.constantFrom("he", "llo", " wor", "ld", "日", "本", "😀", " ", "\n", "3", ".", "<", "]", "a_b"), { maxLength: 12 }).map((parts) => parts.join(""));
  fc.assert(fc.property(fc.array(ordinary, { minLength: 1, maxLength: 3 }), (contents) => {
    const { ids, text } = runJob({ kind: "chat", messages: contents.map(user), options: {} }, mistral, template);
    assert.deepEqual([...ids], [...mistral.encode(text, { addSpecialTokens: false, allowSpecial: true })]);
  }), { numRuns: 200 });
});

test("a template's own tests on contents come out as they should", () => {
  const source = "{% for m in messages %}{{ m.content.startswith('<tool_response>') }} {{ '</think>' in m.content }} {{ m.content == '<a>' }} {{ m.content | length }};{% endfor %}";
  assert.equal(render(source, [user("<tool_response>x"), user("<think>a</think>b"), user("<a>"), user("[INST]")]), "true false false 16;false true false 17;false false true 3;false false false 6;");
});

test("Hugging Face's variables are there: tools and documents are none when absent, strftime_now gives the date", () => {
  assert.equal(render("{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }} {{ messages | length }}", [user("a")]), "true true true 1");
  assert.match(render("{{ strftime_now('%Y') }}", [user("a")]), /^20\d\d$/);
  assert.equal(render("{{ tools[0].name }}{{ add_generation_prompt }}", [user("a")], { tools: [{ name: "t" }], addGenerationPrompt: false }), "tfalse");
  assert.equal(render("{{ enable_thinking }}", [user("a")], { templateKwargs: { enable_thinking: false } }), "false");
});

test("block lines leave no line behind, and generation blocks render their text", () => {
  assert.equal(render("{% for m in messages %}\n  {% generation %}\n{{ m.content }}\n  {% endgeneration %}\n{% endfor %}\n", [user("a"), user("b")]), "a\nb\n");
});

test("of several named templates the one for tools serves requests with tools", () => {
  const named = [{ name: "default", template: "plain" }, { name: "tool_use", template: "tools" }];
  const template = loadChatTemplate({ "tokenizer_config.json": JSON.stringify({ chat_template: named }) }, [])!;
  assert.equal(template.render([user("a")]).text, "plain");
  assert.equal(template.render([user("a")], { tools: [{}] }).text, "tools");
});

test("chat_template.jinja goes before tokenizer_config.json", () => {
  const files = { "chat_template.jinja": "file", "tokenizer_config.json": JSON.stringify({ chat_template: "config" }) };
  assert.equal(loadChatTemplate(files, [])!.render([user("a")]).text, "file");
  assert.equal(loadChatTemplate({ "tokenizer_config.json": files["tokenizer_config.json"] }, [])!.render([user("a")]).text, "config");
  assert.equal(loadChatTemplate({}, []), undefined);
});

test("a final message can be left open, with its last space where the template keeps spaces", () => {
  const messages = [user("q"), { role: "assistant", content: "Once upon a [INST] " }];
  const keeps = "{% for m in messages %}[INST]{{ m.content }}</s>{% endfor %}", trims = keeps.replace("m.content", "m.content | trim");
  assert.equal(render(keeps, messages, { continueFinalMessage: true }), "[INST]q</s>[INST]Once upon a [INST] ");
  assert.equal(render(trims, messages, { continueFinalMessage: true }), "[INST]q</s>[INST]Once upon a [INST]");
});

test("what a template or a chat cannot accept is a bad request that names its field", () => {
  const cases: readonly [string, string, readonly ChatMessage[], RenderOptions, RegExp][] = [
    ["messages", "{{ raise_exception('roles must alternate') }}", [user("a")], {}, /roles must alternate/],
    ["messages", "{{ messages[0].content.nonesuch() }}", [user("a")], {}, /does not accept these messages/],
    ["messages", "{% for a in range(90) %}{{ messages[0].content }}{% endfor %}", [user("abc".repeat(20_000))], {}, /a text or a list of more than 4194304 characters; send less/],
    ["messages", "", [], {}, /messages is empty/],
    ["messages[1].role", "", [user("a"), { role: "end_of_turn", content: "" }], {}, /use one of system/],
    ["messages", "", [{ ...user("a"), deep: Array.from({ length: 100 }).reduce((inner) => [inner], 0) }], {}, /nested 64 deep/],
    ["messages", "", [user(Array.from({ length: 6400 }, (_, i) => String.fromCharCode(0xe000 + i)).join(""))], {}, /private use/],
    ["chat_template_kwargs", "", [user("a")], { templateKwargs: { messages: [] } }, /may not set "messages"/],
    ["continue_final_message", "", [user("a")], { continueFinalMessage: true, addGenerationPrompt: true }, /exclude each other/],
    ["continue_final_message", "", [{ role: "assistant", content: null }], { continueFinalMessage: true }, /has text/],
    ["continue_final_message", "nothing", [user("a")], { continueFinalMessage: true }, /leaves the last message out/],
  ];
  for (const [param, source, messages, options, message] of cases) assert.throws(() => render(source, messages, options), refusal(param, message), String(message));
});

test("keys like __proto__ in a request stay data", () => {
  const message = JSON.parse('{"role":"user","content":"a","__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}') as ChatMessage;
  assert.equal(render("{{ messages[0].content }}", [message]), "a");
  assert.equal(({} as { polluted?: number }).polluted, undefined);
});

test("a template that cannot be parsed is a usage error", () => {
  assert.throws(() => loadChatTemplate({ "chat_template.jinja": "{% if %}" }, []), (error) => error instanceof UsageError && /cannot be parsed/.test(error.message));
});

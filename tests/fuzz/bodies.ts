/** Bodies that each route takes, and values at the boundaries of their fields. */
import { edges, type Node, treeOf } from "./json.ts";

/** Of the fake engine and tokenizer. */
export const vocabSize = 258, maxModelLen = 512;
/** For what is generated after the prompt "hi". */
export const room = maxModelLen - 3;

const chatBody = { model: "fake", messages: [{ role: "user", content: "hi" }], max_tokens: 4 };
/** The least that each route takes. */
export const good: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  "/v1/chat/completions": chatBody,
  "/v1/completions": { model: "fake", prompt: "hi", max_tokens: 4 },
  "/tokenize": { model: "fake", prompt: "hi" },
  "/detokenize": { model: "fake", tokens: [104, 105] },
};

const rich = {
  ...chatBody, messages: [{ role: "system", content: "be" }, { role: "user", content: [{ type: "text", text: "a" }, "b"], name: "n" }], temperature: 0.5, top_p: 0.9, top_k: 5, stop: ["x"], logit_bias: { 5: -1 }, logprobs: true, top_logprobs: 2, stream: true,
  stream_options: { include_usage: true, continuous_usage_stats: true }, chat_template_kwargs: { enable_thinking: false }, n: 1, response_format: { type: "text" }, tools: [], cache_salt: "s", bad_words: ["q"], min_tokens: 1, seed: 3,
};
/** Bodies to change, by route: the least, and with many fields. */
export const bodies: readonly (readonly [path: string, tree: Node])[] = [
  ...Object.entries(good).map(([path, body]) => [path, treeOf(body)] as const), ["/v1/chat/completions", treeOf(rich)], ["/v1/completions", treeOf({ ...rich, messages: undefined, logprobs: 2, prompt: [[1, 2], "b"] })], ["/tokenize", treeOf(chatBody)],
];

/** For any field, as JSON. */
export const values = [
  ...edges, ...[vocabSize - 1, vocabSize, maxModelLen, room, room + 1, -2, 2, 2.0001, 100, 100.5, 20, 21].map(String),
  ...[`[${vocabSize}]`, `[${vocabSize - 1}]`, "[-1]", "[0.5]", '["a"]', '[""]', "[[1],[2]]", '[[1],"a"]', "[[]]", `{"${vocabSize}":1}`, `{"${vocabSize - 1}":100}`, '{"5":101}', '{"5":"1"}', '{"-1":1}', '{"1e2":1}', '{"5":null}'],
  JSON.stringify(Array(65).fill("a")), JSON.stringify(Array(1001).fill("a")), JSON.stringify("a".repeat(1025)), JSON.stringify(Array(2000).fill(1)),
];

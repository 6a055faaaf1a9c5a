import assert from "node:assert/strict";
import { test } from "node:test";
import { flagNames, sentence } from "./sentence.ts";

test("what commander says becomes one sentence of ours", () => {
  for (const [theirs, ours] of [
    ["error: option '--port <port>' argument 'x' is invalid. it must be an integer.\n", "--port is x; it must be an integer."],
    ["error: option '--dtype <type>' argument 'int3' is invalid. Allowed choices are auto, float32.\n", "--dtype is int3; it must be one of auto, float32."],
    ["error: option '--port <port>' argument missing\n", "--port needs a value."],
    ["error: unknown option '--prt'\n(Did you mean --port?)\n", "there is no flag --prt. Did you mean --port?"],
    ["error: missing required argument 'model-or-prompt'\n", "the argument <model-or-prompt> is missing."],
    ["error: something new", "something new"],
  ] as const) assert.equal(sentence(theirs), ours);
});

test("a name of the library that stands before its flag is left out, and other words before a flag are not", () => {
  assert.equal(flagNames("maxNumSeqs (--max-num-seqs) is -1"), "--max-num-seqs is -1");
  assert.equal(flagNames("speculativeConfig.numSpeculativeTokens (--speculative-config num_speculative_tokens) is 0"), "--speculative-config num_speculative_tokens is 0");
  assert.equal(flagNames("kvCacheBytes (--kv-cache-memory-bytes) is 5; maxModelLen (--max-model-len) 7"), "--kv-cache-memory-bytes is 5; --max-model-len 7");
  assert.equal(flagNames("no tokenizer is loaded (--skip-tokenizer-init)"), "no tokenizer is loaded (--skip-tokenizer-init)");
});

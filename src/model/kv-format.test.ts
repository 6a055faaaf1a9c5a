import assert from "node:assert/strict";
import { test } from "node:test";
import { capsOf } from "../backend/registry.ts";
import { chooseKvFormat, kvCacheDTypes } from "./kv-format.ts";

const cpu = capsOf("cpu"), cuda = capsOf("cuda");

test("on the cpu any format goes with any weights, and auto halves the cache beside weights that are not f32", () => {
  assert.deepEqual(kvCacheDTypes.map((asked) => chooseKvFormat(asked, "f32", cpu)), ["f32", "f32", "bf16", "f16"]);
  assert.deepEqual((["bf16", "int8", "uint4"] as const).map((weights) => chooseKvFormat("auto", weights, cpu)), ["bf16", "bf16", "bf16"]);
});

test("on cuda keys and values are in the type of the activations, and another is refused by name", () => {
  assert.deepEqual([chooseKvFormat("auto", "bf16", cuda), chooseKvFormat("auto", "f16", cuda), chooseKvFormat("float16", "f16", cuda)], ["bf16", "f16", "f16"]);
  assert.throws(() => chooseKvFormat("float16", "bf16", cuda), { name: "UsageError", message: /kvCacheDtype \(--kv-cache-dtype\) is float16; device cuda keeps keys and values in the type it computes in, bfloat16 here: leave it out, or pass --dtype float16 too$/ });
  assert.throws(() => chooseKvFormat("float32", "f16", cuda), { name: "UsageError", message: /is float32; device cuda .*, float16 here: leave it out$/ });
});

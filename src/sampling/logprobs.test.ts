import assert from "node:assert/strict";
import test from "node:test";
import { stream } from "../core/random.ts";
import { logprobsOf } from "./logprobs.ts";

test("log-probabilities, ranks and the top list are those of the sorted log-softmax, with ties and -Infinity", () => {
  const random = stream(2);
  for (let i = 0; i < 300; i++) {
    const size = 1 + Math.floor(random() * 50);
    const logits = Float32Array.from({ length: size }, () => (random() < 0.1 ? -Infinity : Math.round(random() * 20) / 2 + 80));
    logits[0] = 88;
    const token = Math.floor(random() * size), numTop = Math.floor(random() * 21);
    const logSum = Math.log([...logits].reduce((sum, x) => sum + Math.exp(x - 100), 0)) + 100;
    const order = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b);
    const got = logprobsOf(logits, token, numTop);
    const near = (logprob: number, id: number) =>
      logits[id] === -Infinity ? assert.equal(logprob, -Infinity) : assert.ok(Math.abs(logprob - (logits[id]! - logSum)) < 1e-12, `case ${i}, token ${id}: ${logprob}`);
    assert.equal(got.token, token);
    assert.equal(got.rank, 1 + order.filter((id) => logits[id]! > logits[token]!).length);
    assert.deepEqual(got.top.map((t) => t.token), order.slice(0, numTop));
    near(got.logprob, token);
    for (const t of got.top) near(t.logprob, t.token);
  }
});

/** An engine's steps to the end, and what each request has been told in all. */
import assert from "node:assert/strict";
import type { Engine } from "../../src/engine/engine.ts";
import type { Delta } from "../../src/engine/messages.ts";
import type { SamplingParams } from "../../src/sampling/params.ts";

export interface Answer {
  readonly tokens: readonly number[];
  readonly logprobs: readonly unknown[];
  readonly promptLogprobs: readonly unknown[];
  readonly end: Partial<Delta>;
}

/** Steps until idle, `during` before each, which says whether more is to come. */
export async function drain(engine: Engine, during: (step: number) => boolean = () => false): Promise<Map<string, Answer>> {
  const out = new Map<string, Answer>();
  for (let step = 0, more = true; more || !engine.idle; step++) {
    assert.ok(step < 5000, "never idle");
    more = during(step);
    for (const { id, tokens, logprobs = [], promptLogprobs, queueSeconds: _, cachedTokens: __, ...end } of await engine.step()) {
      const before = out.get(id) ?? { tokens: [], logprobs: [], promptLogprobs: [], end: {} };
      assert.equal(before.end.finish, undefined, `${id} goes on after its end`);
      assert.ok(logprobs.length === 0 || logprobs.length === tokens.length);
      assert.equal(promptLogprobs?.from ?? 1 + before.promptLogprobs.length, 1 + before.promptLogprobs.length, "without a gap or a repeat");
      out.set(id, { tokens: [...before.tokens, ...tokens], logprobs: [...before.logprobs, ...logprobs], promptLogprobs: [...before.promptLogprobs, ...(promptLogprobs?.logprobs ?? [])], end });
    }
  }
  return out;
}

/** One request and nobody else. */
export async function alone(engine: Engine, prompt: Int32Array, params: SamplingParams): Promise<Answer> {
  engine.submit("alone", prompt, params);
  return (await drain(engine)).get("alone")!;
}

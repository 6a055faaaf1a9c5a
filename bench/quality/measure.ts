/**
 * What a format costs: a model's predictions on a held-out text, beside those of f32 weights and an f32 cache.
 *
 * The text is models/held-out.jsonl: chats that models/generate.py writes for its test split, by a seed that no training used. Every
 * position's logits count, the text being given (teacher-forced).
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { openBackend } from "../../src/backend/registry.ts";
import type { ModelConfig } from "../../src/model/config.ts";
import { type Checkpoint, loadModel, openCheckpoint } from "../../src/model/load.ts";
import { type ChatMessage, startText } from "../../src/tokenizer/text.ts";
import type { WeightSource } from "../../src/weights/source.ts";
import { argmax, Driver } from "../../tests/models/driver.ts";

const models = new URL("../../models/", import.meta.url);
export const demoModel = fileURLToPath(new URL("demo/", models));
/** Tokens of the model's context. */
const context = 1024;

export interface HeldOutChat {
  readonly ids: Int32Array;
  /** Of each position, whether the token behind it is one that the model says; it was trained on no others. */
  readonly said: readonly boolean[];
}

/** Chats of the held-out text, whole ones until there are `numTokens`. */
export async function heldOutText(numTokens = Infinity): Promise<HeldOutChat[]> {
  const read = (name: string): string => readFileSync(new URL(name, models), "utf8");
  const text = await startText({ "tokenizer.json": read("demo/tokenizer.json"), "tokenizer_config.json": read("demo/tokenizer_config.json") }, { inProcess: true });
  const [opening, [end]] = [await text.encode("<start_of_turn>model\n", special), await text.encode("<end_of_turn>", special)];
  const chats: HeldOutChat[] = [];
  let count = 0;
  for (const line of read("held-out.jsonl").trimEnd().split("\n")) {
    const chat = JSON.parse(line) as { readonly text: string } | { readonly messages: readonly ChatMessage[]; readonly tools: readonly unknown[] };
    const whole = "text" in chat ? await text.encode(chat.text) : (await text.encodeChat(chat.messages, { tools: chat.tools, addGenerationPrompt: false })).ids;
    const ids = whole.subarray(0, context);
    let speaking = "text" in chat;
    chats.push({
      ids,
      said: Array.from(ids, (id, at) => {
        if (id === end) speaking = false;
        else if (opening.every((token, i) => ids[at - opening.length + 1 + i] === token)) speaking = true;
        return speaking && at + 1 < ids.length;
      }),
    });
    if ((count += ids.length) >= numTokens) break;
  }
  text.close();
  return chats;
}
const special = { addSpecialTokens: false, allowSpecial: true };

/** What is other than in the reference. */
export interface Change {
  readonly config?: Partial<ModelConfig>;
  readonly source?: WeightSource;
}

/** The logits of all positions by the demo model, its matrices and cache in f32 but for what `change` says; and the bits that a weight takes in memory. */
export async function predict(chats: readonly HeldOutChat[], change: (checkpoint: Checkpoint) => Change = () => ({})): Promise<{ readonly logits: readonly Float32Array[]; readonly bitsPerWeight: number }> {
  const opened = openCheckpoint(demoModel, { dtype: "float32", kvCacheDtype: "float32" });
  const { config, source } = change(opened), pageSize = 16;
  const backend = await openBackend("cpu", { threads: 1 }); // bits do not depend on how many
  try {
    const limits = { maxModelLen: context, maxNumSeqs: 1, maxNumBatchedTokens: context, maxNumLogits: context, pageSize, numPages: context / pageSize };
    const model = await loadModel(backend, source ?? opened.source, { ...opened.config, ...config }, limits);
    const driver = new Driver(backend, model), logits: Float32Array[] = [];
    for (const { ids } of chats) logits.push(...(await driver.step([{ sequence: 0, position: 0, ids: [...ids], wanted: ids.length }])));
    return { logits, bitsPerWeight: (8 * model.plan.bytes.weights) / model.numParameters };
  } finally {
    opened.source.close();
    await backend.close();
  }
}

export interface Quality {
  readonly numPositions: number;
  /** Mean Kullback-Leibler divergence of the predictions from the reference's, nats per token. */
  readonly divergence: number;
  /** Share of positions whose likeliest token is the reference's. */
  readonly agreement: number;
  /** The same of positions that are no near-ties. */
  readonly clearAgreement: number;
  readonly numNearTies: number;
  /** Of the tokens that stand there. */
  readonly perplexity: number;
}

/** A near-tie: the reference's two likeliest tokens are less than this apart, in nats. */
export const nearTie = 0.1;

/** log(sum(exp(x))) */
function logSum(x: Float32Array): number {
  let most = -Infinity, sum = 0;
  for (const value of x) most = Math.max(most, value);
  for (const value of x) sum += Math.exp(value - most);
  return most + Math.log(sum);
}

/** By how much the likeliest token leads, in nats. */
function lead(x: Float32Array, best: number): number {
  let second = -Infinity;
  for (let token = 0; token < x.length; token++) if (token !== best && x[token]! > second) second = x[token]!;
  return x[best]! - second;
}

/** Sums over positions, which become a Quality. */
class Sums {
  #positions = 0; #divergence = 0; #agreeing = 0; #clear = 0; #clearAgreeing = 0; #loss = 0; #targets = 0;

  add(divergence: number, agrees: boolean, isClear: boolean, loss: number | undefined): void {
    this.#positions++;
    this.#divergence += divergence;
    this.#agreeing += Number(agrees);
    this.#clear += Number(isClear);
    this.#clearAgreeing += Number(agrees && isClear);
    this.#loss += loss ?? 0;
    this.#targets += Number(loss !== undefined);
  }

  get quality(): Quality {
    return {
      numPositions: this.#positions, divergence: this.#divergence / this.#positions, agreement: this.#agreeing / this.#positions,
      clearAgreement: this.#clearAgreeing / this.#clear, numNearTies: this.#positions - this.#clear, perplexity: Math.exp(this.#loss / this.#targets),
    };
  }
}

/** Compares logits of the positions of `chats`: of all, and of those before what the model says. */
export function compare(chats: readonly HeldOutChat[], reference: readonly Float32Array[], logits: readonly Float32Array[]): { readonly all: Quality; readonly said: Quality } {
  const all = new Sums(), said = new Sums();
  let row = 0;
  for (const chat of chats) {
    for (let at = 0; at < chat.ids.length; at++) {
      const p = reference[row]!, q = logits[row++]!, next = chat.ids[at + 1];
      const fromP = logSum(p), fromQ = logSum(q), best = argmax(p);
      let divergence = 0;
      for (let token = 0; token < p.length; token++) divergence += Math.exp(p[token]! - fromP) * (p[token]! - fromP - (q[token]! - fromQ));
      const found = [divergence, argmax(q) === best, lead(p, best) >= nearTie, next === undefined ? undefined : fromQ - q[next]!] as const;
      all.add(...found);
      if (chat.said[at]) said.add(...found);
    }
  }
  return { all: all.quality, said: said.quality };
}

/**
 * One mod on its way from function to kernel, every stage printed. docs/attention.md shows this output.
 *
 *   node_modules/.bin/node examples/attention-pipeline.ts
 */
import { createBlockMask, explain, maskMod, planAttention, planWork } from "../src/attention/index.ts";
import { CaptureSlots, inlineKey } from "../src/attention/captures.ts";
import { asExpr, expression } from "../src/attention/values.ts";
import { index } from "../src/ir/expr.ts";
import { interpret } from "../src/ir/interpret.ts";
import { print } from "../src/ir/print.ts";
import { analyse } from "../src/ir/range.ts";

const ids = Int32Array.from({ length: 512 }, (_, i) => (i < 300 ? 0 : 1));
const mask = maskMod(({ ids, size }) => (b, h, q, kv) => {
  const distance = q - kv;
  if (distance < 0) return false;
  const sameChunk = Math.floor(q / 64) === Math.floor(kv / 64);
  return ids[q] === ids[kv] && (sameChunk || distance < size);
}, { ids, size: 100 });

const show = (title: string, text: string): void => console.log(`--- ${title}\n${text}\n`);

show("source: fn.toString()", String(mask.fn));
const lowered = asExpr(mask[inlineKey].inline(new CaptureSlots(), (["b", "h", "q", "kv"] as const).map((name) => expression(index(name)))));
show("parse: the expression as written", print(lowered, "\n"));
show("verify, simplify", print(mask.expr(), "\n"));
show("captures", mask.lower().bindings.map(({ slot }) => JSON.stringify(slot)).join("\n"));
const at = { b: 0, h: 0, q: 310, kv: 290, score: 0, ...mask.values() };
show("interpret at q 310, kv 290", `${interpret(mask.expr(), at)}, and the function itself says ${mask(0, 0, 310, 290)}`);
const analysis = analyse(mask.expr()).bind(mask.values());
const verdicts = ["never", "always", "sometimes"];
show("range: the mask over boxes of q and kv", [[192, 255, 192, 223], [224, 255, 192, 223], [352, 383, 0, 31], [256, 287, 224, 255]].map(([q0, q1, k0, k1]) =>
  `q ${q0}..${q1}, kv ${k0}..${k1}: ${verdicts[analysis.classify(0, 0, 0, 0, q0!, q1!, k0!, k1!)]}`).join("\n"));
show("blocks", String(createBlockMask(mask, { batch: 1, heads: 1, queryLength: 512, kvLength: 512, blockSize: 32 })));
const { plan } = planAttention({ maskMod: mask, numQueryHeads: 8, numKvHeads: 2, headDimQk: 64, headDimV: 64 });
show("plan: the key of the kernel", plan.key);
const one = (n: number): Int32Array => Int32Array.of(n);
const work = planWork(analysis, { numSequences: 1, firstRow: one(0), numRows: one(1), firstPosition: one(511), kvLength: one(512) }, plan);
show("work list of one row, q 511: header, item, runs", [work.subarray(0, 8), work.subarray(8, 16), work.subarray(16)].map((words) => words.join(" ")).join("\n"));
const code = (await explain(mask, { queryLength: 64, device: "cpu" })).code!.split("\n");
const masked = code.findIndex((line) => line.includes("if partial"));
show("emit: WebAssembly, where the mask of a partial block begins", code.slice(masked, masked + 14).join("\n"));

/** Which kernels of attention are launched for a step, and what they are told, without a GPU. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { causal, document, type MaskMod, planAttention } from "../../attention/index.ts";
import { workHeaderWords, workItem } from "../../ir/plan.ts";
import type { AttentionCall, AttentionKernel, Layout } from "../backend.ts";
import { attentionSource } from "./attention.ts";
import { Launcher } from "./attention-launch.ts";
import type { CudaDevice, KernelFunction } from "./device.ts";
import { Failures } from "./failures.ts";
import { CudaBuffer } from "./memory.ts";

const fn = (name: string): KernelFunction => ({ name, registers: 0, localBytes: 0, handle: 0 });
const layout = (address: number): Layout => ({ data: new CudaBuffer(address, 2 ** 20), sequenceStride: 0, rowStride: 64, headStride: 16 });

/** A call of a program: its work list; and the table that its mask reads, where it reads one. */
interface Layer {
  readonly work: CudaBuffer;
  readonly table?: CudaBuffer;
}

/** A program's calls, and what a step of it launches. */
function program(layers: readonly Layer[]) {
  const launches: { readonly name: string; readonly grid: number; readonly params: Uint8Array }[] = [];
  let next = 2 ** 20;
  const device = {
    numSms: 4, maxSharedBytes: 227 * 1024,
    alloc: (bytes: number) => (next += bytes) - bytes,
    launch: ({ name }: KernelFunction, { grid }: { grid: readonly number[] }, params: Uint8Array) => void launches.push({ name, grid: grid[0]!, params }),
  } as unknown as CudaDevice;
  const planOf = (mask: MaskMod) => planAttention({ maskMod: mask, numQueryHeads: 4, numKvHeads: 4, headDimQk: 16, headDimV: 16, queryTile: 128, kvTile: 64, queryFormat: "bf16", keyFormat: "bf16", valueFormat: "bf16" }).plan;
  const launcher = new Launcher(device, new Failures(device));
  launcher.beginProgram();
  const runs = layers.map(({ work, table }) => {
    const plan = planOf(table ? document(new Int32Array(64)) : causal), source = attentionSource(plan, { maxSharedBytes: device.maxSharedBytes, deterministic: false });
    const call: AttentionCall = {
      kernel: { plan, source: "" } as AttentionKernel, captures: table ? [{ kind: "table", data: table, shape: [64] }] : [], query: layout(4096), out: layout(8192), key: layout(12288), value: layout(16384),
      pageSize: 64, blockTable: new CudaBuffer(256, 4096), maxPagesPerSequence: 16, work,
    };
    return launcher.prepare({ source, general: fn("attention"), decode: fn("decode"), planDecode: fn("planDecode"), ...(source.mask && { packMask: fn("packMask") }) }, call, true);
  });
  return (numTokens: number, numSequences: number) => {
    launches.length = 0;
    for (const run of runs) run({ numTokens, numSequences, numLogits: numSequences });
    return [...launches];
  };
}
const list = (address: number, items = 8): Layer => ({ work: new CudaBuffer(address, 4 * (workHeaderWords + items * workItem.words)) });
const differ = (a: Uint8Array, b: Uint8Array): boolean => a.some((byte, i) => byte !== b[i]);

test("a work list is planned by the first call that has it, and again where a plan of it would be another", () => {
  const names = (layers: readonly Layer[]): string[] => program(layers)(2, 2).map(({ name }) => name);
  assert.deepEqual(names([list(512), list(512)]), ["planDecode", "decode", "decode"]);
  assert.deepEqual(names([list(512), list(8192)]), ["planDecode", "decode", "planDecode", "decode"]);
  assert.deepEqual(names([list(512), list(512, 9)]), ["planDecode", "decode", "planDecode", "decode"]);
});

test("a mask is packed by the first call that has it, its table and its work list; never in a step that is all decode's", () => {
  const table = new CudaBuffer(1024, 256), other = new CudaBuffer(2048, 256);
  const names = (layers: readonly Layer[], numTokens = 130): string[] => program(layers)(numTokens, 1).map(({ name }) => name).filter((name) => name !== "planDecode" && name !== "decode");
  const [same, alike] = [{ ...list(512), table }, { ...list(512), table }];
  assert.deepEqual(names([same, alike, list(512)]), ["packMask", "attention", "attention", "attention"]);
  assert.deepEqual(names([same, { ...list(512), table: other }, alike]), ["packMask", "attention", "packMask", "attention", "attention"]);
  assert.deepEqual(names([same, { ...list(8192), table }]), ["packMask", "attention", "packMask", "attention"]);
  assert.deepEqual(names([same, alike], 1), []);
});

test("decode begins early only behind the first call, and where each sequence has one row: a longer one's last tile reads keys of its own step", () => {
  const step = program([list(512), list(512)]);
  const decodes = (numTokens: number, numSequences: number) => step(numTokens, numSequences).filter(({ name }) => name === "decode").map(({ params }) => params);
  const [first, behind] = decodes(2, 2), [firstMixed, behindMixed] = decodes(130, 1);
  assert.ok(differ(first!, behind!));
  assert.ok(!differ(first!, firstMixed!));
  assert.ok(!differ(firstMixed!, behindMixed!));
});

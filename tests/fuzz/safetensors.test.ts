/**
 * Hostile safetensors files, alone and as shards under an index: what is read is what a second, simple reader finds there, and what that
 * one refuses is refused with a UsageError that names the file; never anything else, nor with more memory than a few times the file.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { UsageError } from "../../src/core/errors.ts";
import type { OpenFile } from "../../src/weights/files.ts";
import { fileDTypes, readHeader } from "../../src/weights/safetensors.ts";
import { openWeights } from "../../src/weights/source.ts";
import { below, fuzz, pick, type Random, takeAllocated, watchAllocations } from "./fuzz.ts";
import { mutated, type Node, treeOf } from "./json.ts";

watchAllocations();

interface Entry {
  readonly dtype: keyof typeof fileDTypes;
  readonly shape: readonly number[];
}
const bytesOf = ({ dtype, shape }: Entry): number => shape.reduce((a, b) => a * b, fileDTypes[dtype]);

/** A header over tensors that lie back to back. */
function headerOf(tensors: Readonly<Record<string, Entry>>): Record<string, object> {
  let end = 0;
  return Object.fromEntries(Object.entries(tensors).map(([name, entry]) => [name, { ...entry, data_offsets: [end, (end += bytesOf(entry))] }]));
}
const sizeOf = (tensors: Readonly<Record<string, Entry>>): number => Object.values(tensors).reduce((sum, entry) => sum + bytesOf(entry), 0);

const everyType = Object.fromEntries((Object.keys(fileDTypes) as Entry["dtype"][]).map((dtype, i) => [`w.${i}`, { dtype, shape: [2, 3, 4, 5].slice(0, i % 4) }]));
const seeds = [everyType, { a: { dtype: "F32", shape: [4, 4] }, empty: { dtype: "F32", shape: [0, 7] }, b: { dtype: "BF16", shape: [3] } }, {}] satisfies Readonly<Record<string, Entry>>[];

/** The file of a header's text: lengths and data as said, or a little wrong. */
function fileOf(header: string, dataBytes: number, random: Random, did: (what: string) => void): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(header);
  let claimed = BigInt(text.length), data = dataBytes;
  const what = below(random, 12);
  if (what === 0) claimed = pick(random, [0n, 1n, claimed - 1n, claimed + 1n, 8n + claimed, 100_000_000n, 100_000_001n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]);
  if (what === 1) data = pick(random, [0, dataBytes - 1, dataBytes + 1, 2 * dataBytes].filter((n) => n >= 0));
  if (what < 2) did(what === 0 ? `the length of the header says ${claimed}` : `${data} bytes of data`);
  const all = new Uint8Array(8 + text.length + data);
  new DataView(all.buffer).setBigUint64(0, claimed, true);
  all.set(text, 8);
  for (let i = 8 + text.length; i < all.length; i++) all[i] = i % 251;
  if (what === 2 && all.length > 0) {
    all[below(random, all.length)]! ^= 1 << below(random, 8);
    did("a bit turned");
  }
  if (what === 3) {
    const end = below(random, all.length + 1);
    did(`cut to ${end} bytes`);
    return all.slice(0, end);
  }
  return all;
}

/** The second reader: a file is good when each byte of its data is of exactly one tensor, and no empty tensor lies inside another. Undefined: it is not. */
function paint(all: Uint8Array): Map<string, readonly [begin: number, end: number]> | undefined {
  if (all.length < 8) return undefined;
  const claimed = new DataView(all.buffer, all.byteOffset).getBigUint64(0, true);
  if (claimed > BigInt(all.length - 8)) return undefined;
  const begin = 8 + Number(claimed);
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(all.subarray(8, begin)));
  } catch {
    return undefined;
  }
  if (typeof header !== "object" || header === null || header instanceof originalArray) return undefined;
  const times = new Uint8Array(all.length - begin), places = new Map<string, readonly [number, number]>();
  for (const name of Object.keys(header)) {
    if (name === "__metadata__") continue;
    const entry = (header as Record<string, unknown>)[name] as Record<string, unknown> | null;
    if (typeof entry !== "object" || entry === null) return undefined;
    const { dtype, shape, data_offsets: offsets } = entry as { readonly dtype: unknown; readonly shape: unknown; readonly data_offsets: unknown };
    const lists = [shape, offsets];
    if (typeof dtype !== "string" || !new Map(Object.entries(fileDTypes)).has(dtype as never) || !lists.every((list) => originalArray.isArray(list) && list.every((n) => Number.isSafeInteger(n) && n >= 0))) return undefined;
    const [from, to, ...more] = offsets as number[];
    if (from === undefined || to === undefined || more.length > 0 || to > all.length - begin) return undefined;
    const size = (shape as number[]).reduce((product, n) => product * BigInt(n), BigInt(fileDTypes[dtype as Entry["dtype"]]));
    if (BigInt(to) - BigInt(from) !== size) return undefined;
    for (let i = from; i < to; i++) times[i]!++;
    places.set(name, [begin + from, begin + to]);
  }
  if (times.some((n) => n !== 1)) return undefined;
  const within = (at: number): boolean => [...places.values()].some(([from, to]) => from < at && at < to);
  for (const [from, to] of places.values()) if (from === to && within(from)) return undefined;
  return places;
}
const originalArray = Array;

test("files with one to three places of their headers changed are read as a second reader reads them, or refused", (t) => {
  const trees = seeds.map((tensors) => [treeOf({ __metadata__: { format: "pt" }, ...headerOf(tensors) }), sizeOf(tensors)] as const);
  return fuzz(t, { inputs: [8000, 500_000], floors: { read: 0.1, "refused past the JSON": 0.3, refused: 0.02 } }, ({ random, did }) => {
    const [tree, dataBytes] = pick(random, trees);
    const all = fileOf(random() < 0.1 ? JSON.stringify(headerOf(pick(random, seeds))) : mutated(tree, random, did), dataBytes, random, did);
    const file: OpenFile = { path: "hostile.safetensors", bytes: all.length, read: (into, position) => into.set(all.subarray(position, position + into.length)), close() {} };
    const expected = paint(all);
    takeAllocated();
    try {
      const found = [...readHeader(file)].map(([name, { begin, bytes }]) => [name, [begin, begin + bytes]] as const);
      assert.ok(takeAllocated() <= 4 * all.length + 4096, "memory");
      assert.deepEqual(new Map(found.map(([name, place]) => [name, place.map((at) => at + 0)])), expected);
      return "read";
    } catch (error) {
      assert.ok(error instanceof UsageError && error.message.startsWith("hostile.safetensors "), String((error as Error).stack));
      assert.ok(error.message.length < 2000, `a message of ${error.message.length} characters`);
      assert.equal(expected, undefined, error.message);
      return /is not JSON|header claims|fewer than/.test(error.message) ? "refused" : "refused past the JSON";
    }
  });
});

test("folders with a changed index or changed shards give each tensor's own bytes, or are refused", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "tessera-fuzz-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const shards = { "model-00001-of-00002.safetensors": seeds[0]!, "model-00002-of-00002.safetensors": seeds[1]! };
  const index = { metadata: { total_size: 1 }, weight_map: Object.fromEntries(Object.entries(shards).flatMap(([file, tensors]) => Object.keys(tensors).map((name) => [name, file]))) };
  const trees: Readonly<Record<string, Node>> = { index: treeOf(index), ...Object.fromEntries(Object.entries(shards).map(([file, tensors]) => [file, treeOf(headerOf(tensors))])) };
  const quiet: Random = () => 0.99;
  const good = Object.fromEntries(Object.entries(shards).map(([file, tensors]) => [file, fileOf(JSON.stringify(headerOf(tensors)), sizeOf(tensors), quiet, () => {})]));
  const write = (file: string, bytes: Uint8Array | string): void => writeFileSync(join(folder, file), bytes);
  for (const [file, bytes] of Object.entries(good)) write(file, bytes);
  return fuzz(t, { inputs: [400, 100_000], floors: { read: 0.1, refused: 0.3 } }, ({ random, did }) => {
    const [file, shard] = Object.entries(shards)[below(random, 4)] ?? ["index"];
    const text = mutated(trees[file]!, random, (what) => did(`${file}: ${what}`));
    write("model.safetensors.index.json", file === "index" ? text : JSON.stringify(index));
    const all = shard ? fileOf(text, sizeOf(shard), random, did) : undefined;
    if (all) write(file, all);
    try {
      const source = openWeights(folder);
      try {
        for (const [name, bytes] of Object.entries({ ...good, ...(all && { [file]: all }) }).flatMap(([, found]) => [...paint(found) ?? []].map(([tensor, [from, to]]) => [tensor, found.subarray(from, to)] as const))) {
          const info = source.info(name);
          if (!info) continue;
          const into = new Uint8Array(info.bytes);
          source.read(name, into);
          assert.deepEqual(into, new Uint8Array(bytes), name);
        }
      } finally {
        source.close();
      }
      return "read";
    } catch (error) {
      assert.ok(error instanceof UsageError, String((error as Error).stack));
      assert.ok(error.message.length < 4000, `a message of ${error.message.length} characters`);
      return "refused";
    } finally {
      if (all) write(file, good[file]!);
    }
  });
});

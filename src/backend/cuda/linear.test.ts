/** Which kernel a product takes, as numbers: no GPU is needed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type LinearMachine, type LinearPlan, linearWorkspace, planLinear } from "./linear.ts";

const h100: LinearMachine = { numSms: 132, maxSharedBytes: 232448, library: true };
const small: LinearMachine = { numSms: 20, maxSharedBytes: 101376, library: false };
const machines = [h100, { ...h100, library: false }, small];
/** n and k of a Llama of 8B: qkv, attention's output, gate and up, down, head. */
const llama = [[6144, 4096], [4096, 4096], [28672, 4096], [4096, 14336], [128256, 4096]] as const;
const rowCounts = [1, 2, 3, 8, 9, 16, 31, 32, 33, 64, 65, 128, 129, 512, 4096];
const plan = (rows: number, n: number, k: number, machine: LinearMachine): LinearPlan => planLinear({ rows, n, k }, machine)!;

test("families follow the table of rules, and a machine without a library or much shared memory computes all the same", () => {
  assert.deepEqual(rowCounts.map((rows) => plan(rows, 4096, 4096, h100).family), rowCounts.map((rows) => (rows <= 32 ? "skinny" : rows <= 128 ? "tiled" : "library")));
  assert.equal(plan(512, 4096, 4096, { ...h100, library: false }).kernel, "linearTile128");
  assert.equal(plan(32, 4096, 4096, small).family, "tiled");
  assert.equal(plan(8, 4096, 4096, small).family, "skinny");
});

test("every tile and column of k is somebody's, no chunk is empty, and all fits the machine", () => {
  for (const machine of machines) for (const rows of rowCounts) for (const [n, k] of [...llama, [1, 8], [17, 72], [1001, 896], [896, 4864], [151936, 896], [512, 100000]] as const) {
    const { family, kernel, tiles, splits, chunk, shape, partialBytes } = plan(rows, n, k, machine), what = `${rows} x ${n} x ${k}: ${kernel}`;
    if (family === "library") continue;
    const [tileRows, tileColumns] = family === "skinny" ? [32, 16] : [kernel === "linearTile64" ? 64 : 128, 128];
    assert.ok(tiles[0] * tileRows >= rows && tiles[1] * tileColumns >= n && (tiles[1] - 1) * tileColumns < n, what);
    assert.ok(chunk % 64 === 0 && splits * chunk >= k && (splits - 1) * chunk < k, what);
    assert.ok(shape.sharedBytes! <= machine.maxSharedBytes && shape.dependent, what);
    assert.equal(shape.grid[1], splits, what);
    assert.ok(family === "skinny" ? shape.grid[0] * splits <= machine.numSms && shape.grid[0] <= tiles[1] : shape.grid[0] === tiles[0] * tiles[1], what);
    assert.ok(splits === 1 ? partialBytes === 0 : partialBytes <= linearWorkspace.partialBytes && tiles[0] * tiles[1] <= linearWorkspace.maxTiles, what);
  }
});

test("of a Llama of 8B on 132 SMs, blocks idle little: the longest is at most 8% over the mean", () => {
  for (const rows of [1, 8, 32]) for (const [n, k] of llama) {
    const { shape: { grid }, tiles, splits, chunk } = plan(rows, n, k, h100);
    const longest = Math.ceil(tiles[1] / grid[0]) * chunk, mean = (Math.ceil(n / 16) * k) / h100.numSms;
    assert.ok(longest <= 1.08 * mean, `${rows} rows, ${n} x ${k}: ${splits} splits on ${grid[0]} columns of blocks, ${(longest / mean).toFixed(3)}`);
  }
});

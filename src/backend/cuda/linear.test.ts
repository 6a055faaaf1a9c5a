/** Which kernel a product takes, as numbers: no GPU is needed. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { KernelFunction } from "./device.ts";
import { launchLinear, libraryTakes, type LinearCall, type LinearMachine, type LinearPlan, linearWorkspace, planLinear } from "./linear.ts";

const h100: LinearMachine = { numSms: 132, maxSharedBytes: 232448, library: true, deterministic: false };
const own: LinearMachine = { ...h100, library: false };
const small: LinearMachine = { numSms: 20, maxSharedBytes: 101376, library: false, deterministic: false };
const machines = [h100, own, small, { ...h100, deterministic: true }, { ...small, deterministic: true }];
/** n and k of a Llama of 8B: qkv, attention's output, gate and up, down, head. */
const llama = [[6144, 4096], [4096, 4096], [28672, 4096], [4096, 14336], [128256, 4096]] as const;
const odd = [[1, 8], [17, 72], [1001, 896], [896, 4864], [151936, 896], [512, 100000]] as const;
const rowCounts = [1, 2, 3, 8, 9, 16, 17, 31, 32, 33, 64, 65, 128, 129, 512, 4096];
const plan = (rows: number, n: number, k: number, machine: LinearMachine): LinearPlan => planLinear({ rows, n, k }, machine)!;

test("families follow the table of rules, and a machine without a library or much shared memory computes all the same", () => {
  const families = (k: number, machine: LinearMachine): string => rowCounts.map((rows) => plan(rows, 4096, k, machine).family[0]).join("");
  assert.equal(families(4096, h100), "ssssssllllllllll");
  assert.equal(families(14336, h100), "ssslllllllllllll"); // x of 8 rows does not fit a block
  assert.equal(families(4096, own), "sssssstttttttttt");
  assert.equal(families(14336, own), "sssstttttttttttt"); // 8 rows: in splits
  assert.equal(families(4096, { ...h100, deterministic: true }), "tttttttttttttttt");
  assert.equal(plan(8, 4096, 14336, own).splits > 1, true);
  assert.equal(plan(512, 4096, 4096, own).kernel, "linearTile128");
  assert.equal(plan(8, 4096, 4096, small).family, "skinny");
});

test("the skinny kernel's ring is as deep as there is room beside x", () => {
  const depths = (k: number, machine: LinearMachine): string => [1, 2, 4, 5, 6, 7, 8, 16].map((rows) => planLinear({ rows, n: 4096, k }, machine, { family: "skinny", splits: 1 })?.depth ?? "-").join("");
  assert.deepEqual([4096, 14336].map((k) => depths(k, own)), ["66666664", "66643---"]);
  assert.equal(depths(4096, small), "5433----");
  assert.equal(planLinear({ rows: 1, n: 4096, k: 4096 }, own, { family: "skinny", depth: 3 })!.depth, 3);
});

test("a bias is never the library's, as it would round the sum before adding it", () => {
  const call: Omit<LinearCall, "rows"> = { n: 64, k: 64, element: "bf16", header: 0, rowsWord: 0, out: 1024, outType: "bf16", outStride: 64, x: 512, xStride: 64, weight: 256, bias: 0, residual: 0, residualStride: 0 };
  assert.equal(libraryTakes(call), true);
  assert.equal(libraryTakes({ ...call, bias: 2048 }), false);
  assert.equal(libraryTakes({ ...call, outType: "f32", residual: 2048, residualStride: 64 }), true);
  assert.equal(libraryTakes({ ...call, outType: "f32", residual: 2048, residualStride: 72 }), false);
});

test("every tile and column of k is somebody's, no chunk is empty, and all fits the machine", () => {
  for (const machine of machines) for (const rows of rowCounts) for (const [n, k] of [...llama, ...odd]) {
    const { family, kernel, tiles, splits, chunk, shape, partialBytes, rowsAtOnce } = plan(rows, n, k, machine), what = `${rows} x ${n} x ${k}: ${kernel}`;
    if (family === "library") continue;
    const [tileRows, tileColumns] = family === "skinny" ? [16, 16] : [kernel === "linearTile64" ? 64 : 128, 128];
    assert.ok(tiles[0] * tileRows >= Math.min(rows, rowsAtOnce) && tiles[1] * tileColumns >= n && (tiles[1] - 1) * tileColumns < n, what);
    assert.ok(machine.deterministic ? rowsAtOnce > 0 : rowsAtOnce >= rows, what);
    assert.ok(chunk % 64 === 0 && splits * chunk >= k && (splits - 1) * chunk < k, what);
    assert.ok(shape.sharedBytes! <= machine.maxSharedBytes && shape.dependent, what);
    assert.equal(shape.grid[1], splits, what);
    assert.ok(family !== "skinny" || 2 * shape.sharedBytes! > machine.maxSharedBytes, `two blocks of ${what} on an SM`);
    assert.ok(family === "skinny" ? shape.grid[0] * splits <= machine.numSms && shape.grid[0] <= tiles[1] : shape.grid[0] === tiles[0] * tiles[1], what);
    assert.ok(splits === 1 ? partialBytes === 0 : partialBytes <= linearWorkspace.partialBytes && tiles[0] * tiles[1] <= linearWorkspace.maxTiles, what);
  }
});

test("deterministic: k is cut alike for every number of rows, and every row is in one launch", () => {
  const pointer = (bytes: Uint8Array, at: number): number => Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(at, true));
  const machine = { ...h100, deterministic: true }, kernel: KernelFunction = { name: "", registers: 0, localBytes: 0, handle: 0 };
  let many = 0;
  for (const [n, k] of [...llama, ...odd]) {
    const one = plan(1, n, k, machine);
    for (const rows of rowCounts) {
      const of = plan(rows, n, k, machine), launches: Uint8Array[] = [];
      assert.deepEqual([of.splits, of.chunk], [one.splits, one.chunk], `${rows} x ${n} x ${k}`);
      const call: LinearCall = { rows, n, k, element: "bf16", header: 0, rowsWord: 0, out: 2 ** 33, outType: "f32", outStride: n, x: 2 ** 32, xStride: k, weight: 0, bias: 0, residual: 0, residualStride: 0 };
      launchLinear(call, of, { device: { launch: (_f, _shape, params) => void launches.push(params) }, blas: undefined, workspace: 0, kernel: () => kernel });
      assert.equal(launches.length, Math.ceil(rows / of.rowsAtOnce));
      launches.forEach((params, i) => {
        assert.equal(pointer(params, 8), 2 ** 32 + i * of.rowsAtOnce * k * 2); // x
        assert.equal(pointer(params, 24), 2 ** 33 + i * of.rowsAtOnce * n * 4); // out
        assert.equal(pointer(params, 40), 0); // no residual
        assert.equal(new DataView(params.buffer, params.byteOffset).getInt32(64 + 4 * 11, true), i * of.rowsAtOnce);
      });
      many += launches.length > 1 ? 1 : 0;
    }
  }
  assert.ok(many > 0);
});

test("of a Llama of 8B on 132 SMs, blocks idle little: the longest is at most 8% over the mean", () => {
  for (const rows of [1, 4, 8]) for (const [n, k] of llama) {
    const { shape: { grid }, tiles, splits, chunk } = plan(rows, n, k, own);
    const longest = Math.ceil(tiles[1] / grid[0]) * chunk, mean = (Math.ceil(n / 16) * k) / own.numSms;
    assert.ok(longest <= 1.08 * mean, `${rows} rows, ${n} x ${k}: ${splits} splits on ${grid[0]} columns of blocks, ${(longest / mean).toFixed(3)}`);
  }
});

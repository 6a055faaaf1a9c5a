/** Compiled kernels on disk: what was put comes back whole, or not at all. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { openCubinCache } from "./cubin-cache.node.ts";

const folder = mkdtempSync(join(tmpdir(), "tessera-cubins-"));
after(() => rmSync(folder, { recursive: true }));
const cache = openCubinCache({ TESSERA_CACHE_DIR: folder });
const bytes = (n: number, seed = 1): Uint8Array => Uint8Array.from({ length: n }, (_, i) => i * seed);

test("what was put comes back with its facts", async () => {
  const key = cache.key("source", "sm_90a");
  assert.equal(await cache.get(key), undefined);
  await cache.put(key, bytes(1000), [{ kernel: "k", registers: 8 }]);
  const kept = await cache.get(key);
  assert.deepEqual(new Uint8Array(kept!.cubin), bytes(1000));
  assert.deepEqual(kept!.facts, [{ kernel: "k", registers: 8 }]);
  assert.ok(readdirSync(join(folder, "cubins")).every((name) => /^[0-9a-f]{64}\.(cubin|json)$/.test(name)), "no file of another name stays");
});

test("a key depends on every part, and on where parts end", () => {
  const keys = [cache.key("ab", "c"), cache.key("a", "bc"), cache.key("ab", "d"), cache.key("abc"), cache.key("c", "ab")];
  assert.equal(new Set(keys).size, keys.length);
  assert.equal(cache.key("ab", "c"), keys[0]);
});

test("what is not whole is as good as not there, and is replaced", async () => {
  const key = cache.key("torn"), file = (end: string): string => join(folder, "cubins", `${key}.${end}`);
  const ways: Readonly<Record<string, () => void>> = {
    "a byte changed": () => {
      const data = readFileSync(file("cubin"));
      data[500]! ^= 1;
      writeFileSync(file("cubin"), data);
    },
    "cut off": () => truncateSync(file("cubin"), 999),
    "of nothing": () => truncateSync(file("cubin"), 0),
    "the cubin is gone": () => rmSync(file("cubin")),
    "the facts are gone": () => rmSync(file("json")),
    "the facts are cut off": () => truncateSync(file("json"), 20),
    "the facts are another's": () => writeFileSync(file("json"), '{"checksum":"00","facts":[]}'),
  };
  for (const [what, spoil] of Object.entries(ways)) {
    await cache.put(key, bytes(1000), what);
    assert.equal((await cache.get(key))?.facts, what);
    spoil();
    assert.equal(await cache.get(key), undefined, what);
  }
});

test("many who write and read at once see whole entries", async () => {
  const key = cache.key("race");
  const large = bytes(100_000, 7), others = Array.from({ length: 8 }, () => openCubinCache({ TESSERA_CACHE_DIR: folder }));
  await Promise.all(others.map(async (other) => {
    for (let i = 0; i < 10; i++) {
      await other.put(key, large, "facts");
      const kept = await other.get(key);
      assert.ok(kept && Buffer.compare(kept.cubin, large) === 0);
    }
  }));
});

test("where the folder can not be written, put says so and nothing is left", async () => {
  const file = join(folder, "file");
  writeFileSync(file, "");
  await assert.rejects(openCubinCache({ TESSERA_CACHE_DIR: file }).put(cache.key("x"), bytes(1), []), /ENOTDIR|EEXIST/);
});

test("the folder is the user's", () => {
  assert.equal(openCubinCache({ XDG_CACHE_HOME: "/c" }).folder, "/c/tessera/cubins");
  assert.match(openCubinCache({}).folder, /\/\.cache\/tessera\/cubins$/);
});

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { writeGguf } from "../../tests/gguf-writer.ts";
import { resolveModel } from "./hub.ts";

const commit = "0123456789abcdef0123456789abcdef01234567";
const bigBytes = 3_000_000;
/** A safetensors file of one tensor. */
function weights(): Buffer {
  const header = Buffer.from(JSON.stringify({ w: { dtype: "U8", shape: [bigBytes], data_offsets: [0, bigBytes] } }));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, Buffer.from(Uint8Array.from({ length: bigBytes }, (_, i) => (i * 7919) >> 5))]);
}
const model = { "config.json": Buffer.from("{}"), "model.safetensors": weights(), "README.md": Buffer.from("hello") };

type Answer = (body: Buffer, request: IncomingMessage, response: ServerResponse) => void;

/** A stand-in of the hub with one model, org/name. `meddle` may answer the requests of a file itself. */
async function standIn(t: TestContext, contents: Readonly<Record<string, Buffer>>, meddle: Readonly<Record<string, Answer>> = {}, hashes: Readonly<Record<string, string>> = {}): Promise<{ url: string; cacheDir: string; ranges: string[]; close: () => Promise<void> }> {
  const ranges: string[] = [];
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url!, "http://hub");
    const json = (value: unknown): void => void response.setHeader("content-type", "application/json").end(JSON.stringify(value));
    if (pathname === "/api/models/org/name/revision/main") return json({ _id: "1", id: "org/name", sha: commit });
    if (pathname === `/api/models/org/name/tree/${commit}`) {
      return json(Object.entries(contents).map(([path, body]) => {
        const sha1 = createHash("sha1").update(`blob ${body.length}\0`).update(body).digest("hex");
        const lfs = { oid: createHash("sha256").update(body).digest("hex"), size: body.length, pointerSize: 100 };
        return { type: "file", path, size: body.length, oid: hashes[path] ?? sha1, ...(path.endsWith(".safetensors") && { lfs }) };
      }));
    }
    const path = pathname.replace(`/org/name/resolve/${commit}/`, "");
    const body = contents[path];
    if (!body) return void response.writeHead(404, { "content-type": "application/json" }).end(JSON.stringify({ error: "not here" }));
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    const begin = Number(range?.[1] ?? 0), end = range ? Number(range[2]) + 1 : body.length;
    // The client asks for the first byte to learn the size.
    if (range && end === 1) return void response.writeHead(206, { etag: '"e"', "content-range": `bytes 0-0/${body.length}`, "content-length": 1 }).end(body.subarray(0, 1));
    ranges.push(`${path} ${begin}`);
    response.writeHead(range ? 206 : 200, { etag: '"e"', "content-length": end - begin });
    const answer = meddle[path] ?? ((part) => void response.end(part));
    answer(body.subarray(begin, end), request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const cacheDir = mkdtempSync(join(tmpdir(), "tessera-hub-"));
  const close = (): Promise<void> => new Promise((resolve) => (server.close(() => resolve()), server.closeAllConnections()));
  t.after(async () => {
    await close();
    rmSync(cacheDir, { recursive: true });
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, cacheDir, ranges, close };
}

/** Ends the connection after half of what was asked for, the first `times` times. */
function cut(times: number): Answer {
  return (part, _, response) => {
    if (times-- <= 0) return void response.end(part);
    response.write(part.subarray(0, part.length >> 1), () => setTimeout(() => response.destroy(), 50));
  };
}
const blobsOf = (cacheDir: string): string => join(cacheDir, "models--org--name", "blobs");

test("an existing folder is itself", async () => {
  assert.equal(await resolveModel(tmpdir()), tmpdir());
});

test("a name that is neither a folder nor org/name is refused with what to do", async () => {
  for (const name of ["nothing-here", "/no/such/folder", "../up/here", "a/b/c", "", "none.gguf", "a/b/../c.gguf", "a/b:", "/no/such.gguf"]) {
    await assert.rejects(resolveModel(name), { name: "UsageError", message: /no such folder.*org\/name/ });
  }
});

test("org/name is downloaded into the hub's cache layout, with progress, and only what is needed", async (t) => {
  const hub = await standIn(t, model);
  const progress: number[] = [];
  let total = 0;
  const folder = await resolveModel("org/name", { hubUrl: hub.url, cacheDir: hub.cacheDir, onProgress: (_, done, all) => (progress.push(done), (total = all)) });
  assert.equal(folder, join(hub.cacheDir, "models--org--name", "snapshots", commit));
  assert.deepEqual(readdirSync(folder).sort(), ["config.json", "model.safetensors"]);
  assert.deepEqual(readFileSync(join(folder, "model.safetensors")), model["model.safetensors"]);
  assert.equal(readFileSync(join(hub.cacheDir, "models--org--name", "refs", "main"), "utf8"), commit);
  assert.equal(total, 2 + model["model.safetensors"].length);
  assert.deepEqual([progress.at(-1), progress.every((x, i) => i === 0 || x >= progress[i - 1]!)], [total, true]);
  hub.ranges.length = 0;
  await resolveModel("org/name", { hubUrl: hub.url, cacheDir: hub.cacheDir });
  assert.deepEqual(hub.ranges, [], "nothing is downloaded twice");
  await hub.close();
  assert.equal(await resolveModel("org/name", { hubUrl: hub.url, cacheDir: hub.cacheDir }), folder, "what is there is used without the hub");
});

test("a connection cut in the middle is resumed where it stopped", async (t) => {
  const hub = await standIn(t, model, { "model.safetensors": cut(2) });
  const folder = await resolveModel("org/name", { hubUrl: hub.url, cacheDir: hub.cacheDir });
  assert.deepEqual(readFileSync(join(folder, "model.safetensors")), model["model.safetensors"]);
  const begins = hub.ranges.filter((r) => r.startsWith("model.safetensors")).map((r) => Number(r.split(" ")[1]));
  assert.equal(begins.length, 3);
  assert.ok(begins[0] === 0 && begins[1]! > 0 && begins[2]! > begins[1]!, `asked from ${begins}`);
});

test("a download that stopped for good goes on when it is started again", async (t) => {
  let dead = true;
  const hub = await standIn(t, model, {
    "model.safetensors": (part, _, response) => {
      if (!dead) return void response.end(part);
      if (part.length < bigBytes) return void response.destroy();
      response.write(part.subarray(0, 1_000_000), () => setTimeout(() => response.destroy(), 50));
    },
  });
  const options = { hubUrl: hub.url, cacheDir: hub.cacheDir };
  await assert.rejects(resolveModel("org/name", options), { name: "UsageError", message: /model\.safetensors: the download stopped at \d+ of \d+ bytes.*again/ });
  dead = false;
  hub.ranges.length = 0;
  const folder = await resolveModel("org/name", options);
  assert.deepEqual(readFileSync(join(folder, "model.safetensors")), model["model.safetensors"]);
  assert.ok(Number(hub.ranges[0]!.split(" ")[1]) > 0, `asked for ${hub.ranges}`);
});

test("a corrupted file is refused and not kept", async (t) => {
  for (const [name, body] of Object.entries(model).slice(0, 2)) {
    const hub = await standIn(t, model, { [name]: (part, _, response) => void response.end(Buffer.from(part).fill(63, part.length - 1)) });
    await assert.rejects(resolveModel("org/name", { hubUrl: hub.url, cacheDir: hub.cacheDir }), { name: "UsageError", message: new RegExp(`${name}: what was downloaded has sha.*the hub says`) });
    assert.ok(!readdirSync(blobsOf(hub.cacheDir)).some((blob) => blob.includes("incomplete") || readFileSync(join(blobsOf(hub.cacheDir), blob)).length === body.length));
  }
});

test("the rest of a file that was bad from the start is thrown away, and the file downloaded anew", async (t) => {
  const hub = await standIn(t, model);
  const options = { hubUrl: hub.url, cacheDir: hub.cacheDir };
  await resolveModel("org/name", options);
  const blob = join(blobsOf(hub.cacheDir), createHash("sha256").update(model["model.safetensors"]).digest("hex"));
  rmSync(blob);
  writeFileSync(`${blob}.incomplete`, "rubbish");
  const folder = await resolveModel("org/name", options);
  assert.deepEqual(readFileSync(join(folder, "model.safetensors")), model["model.safetensors"]);
  assert.ok(!existsSync(`${blob}.incomplete`));
});

test("a mirror that lists paths or hashes which lead out of the cache is refused before anything is written", async (t) => {
  for (const path of ["../evil.json", "a/../../evil.json", "/evil.json", "a\\evil.json", "a//evil.json"]) {
    const hub = await standIn(t, { ...model, [path]: Buffer.from("{}") });
    await assert.rejects(resolveModel("org/name", { cacheDir: hub.cacheDir, hubUrl: hub.url }), { name: "UsageError", message: /evil\.json.* is no file of a repository.*trusted/ });
    assert.deepEqual(hub.ranges, []);
  }
  const hub = await standIn(t, model, {}, { "config.json": "../../evil" });
  await assert.rejects(resolveModel("org/name", { cacheDir: hub.cacheDir, hubUrl: hub.url }), { name: "UsageError", message: /config\.json.*sha1 "..\/..\/evil"/ });
});

test("shards come by the index, and a model without safetensors is refused", async (t) => {
  const index = Buffer.from(JSON.stringify({ weight_map: { w: "part-1.safetensors" } }));
  const sharded = await standIn(t, { "config.json": model["config.json"], "model.safetensors.index.json": index, "part-1.safetensors": weights(), "other.safetensors": weights() });
  const folder = await resolveModel("org/name", { hubUrl: sharded.url, cacheDir: sharded.cacheDir });
  assert.deepEqual(readdirSync(folder).sort(), ["config.json", "model.safetensors.index.json", "part-1.safetensors"]);
  const pickled = await standIn(t, { "config.json": model["config.json"], "pytorch_model.bin": Buffer.from("x") });
  await assert.rejects(resolveModel("org/name", { hubUrl: pickled.url, cacheDir: pickled.cacheDir }), { name: "UsageError", message: /no model\.safetensors\.index\.json and no model\.safetensors/ });
});

test("one GGUF file of a repository is downloaded by its path or its type, a split one with all its parts", async (t) => {
  const gguf = (no?: number): Buffer => Buffer.from(writeGguf({ metadata: no === undefined ? {} : { "split.no": ["u16", no], "split.count": ["u16", 2] }, tensors: [] }));
  const hub = await standIn(t, {
    "m-Q8_0.gguf": gguf(), "m.Q4_K_M.gguf": gguf(), "mmproj-m-F16.gguf": gguf(), "big/m-F16-00002-of-00002.gguf": gguf(1), "big/m-F16-00001-of-00002.gguf": gguf(0), "README.md": Buffer.from("hello"),
  });
  const options = { hubUrl: hub.url, cacheDir: hub.cacheDir };
  const snapshot = join(hub.cacheDir, "models--org--name", "snapshots", commit);
  assert.equal(await resolveModel("org/name/m-Q8_0.gguf", options), join(snapshot, "m-Q8_0.gguf"));
  assert.deepEqual(readdirSync(snapshot), ["m-Q8_0.gguf"]);
  assert.equal(await resolveModel("org/name:q4_k_m", options), join(snapshot, "m.Q4_K_M.gguf"));
  for (const name of ["org/name:F16", "org/name/big/m-F16.gguf", "org/name/big/m-F16-00001-of-00002.gguf"]) {
    assert.equal(await resolveModel(name, options), join(snapshot, "big", "m-F16-00001-of-00002.gguf"));
  }
  assert.deepEqual(readdirSync(join(snapshot, "big")), ["m-F16-00001-of-00002.gguf", "m-F16-00002-of-00002.gguf"]);
  for (const [name, message] of [
    ["org/name:Q4", /no GGUF file for ":Q4"; give org\/name\/ and one of big\/m-F16-00001-of-00002\.gguf, m-Q8_0\.gguf, m\.Q4_K_M\.gguf$/], ["org/name/other.gguf", /no GGUF file for "\/other\.gguf"/],
    ["org/name", /has no config\.json, but GGUF files: give org\/name\/ and one of/],
  ] as const) await assert.rejects(resolveModel(name, options), { name: "UsageError", message });
  await hub.close();
  assert.equal(await resolveModel("org/name:Q8_0", options), join(snapshot, "m-Q8_0.gguf"), "what is there is used without the hub");
  assert.equal(await resolveModel("org/name/m.Q4_K_M.gguf", options), join(snapshot, "m.Q4_K_M.gguf"));
  await assert.rejects(resolveModel("org/name/other.gguf", options), { name: "UsageError", message: /could not be asked/ });
});

test("a model that is not on the hub, or a hub that does not answer, says so", async (t) => {
  const hub = await standIn(t, model);
  await assert.rejects(resolveModel("org/other", { hubUrl: hub.url, cacheDir: hub.cacheDir }), { name: "UsageError", message: /no folder org\/other here.*status 404: there is no such model/ });
  await hub.close();
  await assert.rejects(resolveModel("org/name", { hubUrl: hub.url, cacheDir: hub.cacheDir }), { name: "UsageError", message: /could not be asked for org\/name.*check the network/ });
});

test("a cache folder that cannot be written is not blamed on the hub", async (t) => {
  const hub = await standIn(t, model);
  const file = join(hub.cacheDir, "file");
  writeFileSync(file, "");
  await assert.rejects(resolveModel("org/name", { hubUrl: hub.url, cacheDir: file }), { name: "UsageError", message: /files of org\/name cannot be kept \(ENOTDIR/ });
});

/**
 * The attention kernels that are emitted for CUDA compile, without spills, for Hopper (sm_90a) and for the least there may be (sm_80), in what some
 * holding of registers asks for; what they take is written down in cuda-resources.txt. No GPU is needed, but NVRTC is.
 *
 * A sample of plans each time; the whole conformance list in the long variant. `npm run kernels` writes the record again, where NVRTC is; so does its long
 * variant (TESSERA_LONG=1 npm run kernels) for the whole list.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { after, describe, test } from "node:test";
import { fitAttention, type FittedAttention } from "../../src/backend/cuda/attention-fit.ts";
import { holdingsFor, rule } from "../../src/backend/cuda/attention.ts";
import { Compiler } from "../../src/backend/cuda/compiler.ts";
import { UsageError } from "../../src/core/errors.ts";
import { conformancePlans, type NamedPlan, type Shape, snapshotPlan } from "./cuda-plans.ts";
import { snapshotMods } from "./snapshot-mods.ts";

const long = process.env["TESSERA_LONG"] !== undefined, writing = process.env["TESSERA_WRITE_KERNELS"] !== undefined;
const archs = ["sm_90a", "sm_80"] as const;
/** The most that a thread block may have there. */
const maxSharedBytes = { sm_90a: 227 * 1024, sm_80: 163 * 1024 } as const;

/** A plan, for an architecture. `deterministic`: decode in fixed cuts. */
interface Case extends NamedPlan {
  readonly arch: (typeof archs)[number];
  readonly deterministic: boolean;
}

const shapes: readonly Shape[] = [[16, 12], [64, 64], [128, 128], [256, 256]].flatMap(([headDimQk, headDimV]) => (["bf16", "f16"] as const).map((element) => ({ element, headDimQk: headDimQk!, headDimV: headDimV! })));
/** Of the list, what does not fit the first holdings. */
const heavy = new Set(["S19 radial bumps by a loop"]);
const sample: readonly Case[] = [
  ...Object.keys(snapshotMods).map((mod, i): Case => ({ ...snapshotPlan(mod, shapes[i % shapes.length]!), arch: archs[(i + (i >> 3)) % 2]!, deterministic: i % 3 === 0 })),
  ...conformancePlans({ element: "bf16", headDimQk: 128, headDimV: 128 }, heavy).map((plan): Case => ({ ...plan, arch: "sm_90a", deterministic: false })),
];
/** The list in its own small shape and in that of most models. */
const everything = (): Readonly<Record<string, readonly Case[]>> => Object.fromEntries(archs.flatMap((arch) => [
  [`${arch}, small heads`, conformancePlans({ element: "f16", headDimQk: 16, headDimV: 12 }).map((plan): Case => ({ ...plan, arch, deterministic: true }))],
  [`${arch}, heads of 128`, conformancePlans({ element: "bf16", headDimQk: 128, headDimV: 128 }).map((plan): Case => ({ ...plan, arch, deterministic: false }))],
]));

const labelOf = ({ arch, deterministic, name }: Case): string => `${arch} ${deterministic ? "deterministic " : ""}${name}`;

function lineOf(c: Case, { source, general, decode }: FittedAttention): string {
  const { holding } = source, of = ({ resources }: FittedAttention["general"], kernel: string, dynamic: number): string => {
    const { registers, sharedBytes } = resources.find((r) => r.kernel === kernel)!;
    return `${registers} registers, ${dynamic + sharedBytes} bytes`;
  };
  return `${labelOf(c)}: ${holding.rowsOfWarp} x ${holding.keysOfBlock}${holding.packed ? " with packed masks" : ""}, ${of(general, "attention", source.general.sharedBytes)}; ${decode ? `decode ${of(decode, "decode", source.decode!.sharedBytes)}` : "no decode"}`;
}

const record = new URL("cuda-resources.txt", import.meta.url);
const headOf = (version: string): readonly string[] => [
  `NVRTC ${version}`, "",
  "What the attention kernels take of a multiprocessor, as this very compiler makes them: rows of a warp x keys of a block, registers of a thread, shared memory of",
  "a block. tests/kernels/cuda-compile.test.ts compares it where it finds this compiler, and no other; `npm run kernels` writes it.", "",
];
/** What is recorded: the compiler's version, and a line for each case, by its label. */
function recorded(): { readonly version: string | undefined; readonly lines: Map<string, string> } {
  const text = existsSync(record) ? readFileSync(record, "utf8") : "";
  return { version: /^NVRTC (.*)$/m.exec(text)?.[1], lines: new Map(text.split("\n").filter((line) => line.startsWith("sm_")).map((line) => [line.slice(0, line.indexOf(": ")), line])) };
}

/** The compiler's version does not say its build, but the length of its file does. */
const buildOf = ({ version, file }: Compiler): string => `${version}${existsSync(file) ? `, ${statSync(file).size} bytes` : ""}`;

/** A compiler for each architecture, or why there is none. */
const opened = await Promise.all(archs.map((arch) => Compiler.open(arch))).catch((error: unknown) => {
  if (error instanceof UsageError) return error.message.split("\n")[0]!;
  throw error;
});

describe("NVRTC", { skip: typeof opened === "string" ? opened : false }, () => {
  const compilers = new Map(archs.map((arch, i) => [arch, (opened as readonly Compiler[])[i]!])), version = buildOf(compilers.get("sm_90a")!);
  const fitted = new Map<Case, FittedAttention>();

  for (const [name, cases] of Object.entries({ sample, ...(long ? everything() : {}) })) test(`${name}: ${cases.length} plans compile, each with the first holding that the compiler keeps in registers`, async () => {
    const waiting = [...cases];
    const compileNext = async (): Promise<void> => {
      for (let c = waiting.shift(); c; c = waiting.shift()) {
        const found = await fitAttention(compilers.get(c.arch)!, c.plan, { maxSharedBytes: maxSharedBytes[c.arch], deterministic: c.deterministic }).catch((error: unknown) => {
          throw new Error(`${labelOf(c!)}: ${(error as Error).message}`, { cause: error });
        });
        fitted.set(c, found);
      }
    };
    await Promise.all(Array.from({ length: Math.min(4, availableParallelism()) }, compileNext));
    for (const [c, { source, general, decode }] of fitted) {
      for (const { kernel, spillBytes, stackBytes } of [...general.resources, ...(decode?.resources ?? [])]) assert.deepEqual([spillBytes, stackBytes], [0, 0], `${labelOf(c)}: ${kernel}`);
      for (const [{ resources }, kernel] of [[general, source.general], ...(decode ? [[decode, source.decode!] as const] : [])] as const) {
        const bytes = kernel.sharedBytes + resources.find((r) => r.kernel === kernel.name)!.sharedBytes;
        assert.ok(bytes <= maxSharedBytes[c.arch], `${labelOf(c)}: ${kernel.name} takes ${bytes} bytes`);
      }
      assert.ok(holdingsFor(c.plan).some(({ rowsOfWarp, keysOfBlock, packed }) => rowsOfWarp === source.holding.rowsOfWarp && keysOfBlock === source.holding.keysOfBlock && packed === source.holding.packed));
      assert.deepEqual([source.decode !== undefined, source.decodeRows > 0, /^decode: items/.test(rule(source))], [decode !== undefined, decode !== undefined, decode !== undefined], labelOf(c));
    }
  });

  test("most plans fit the first holding, some need a lesser one, and what decode is compiled for does not follow it", () => {
    const holdings = [...fitted.values()].map(({ source }) => source.holding), first = holdings.filter(({ rowsOfWarp }) => rowsOfWarp === 32).length;
    assert.ok(first > 0.4 * holdings.length && first < holdings.length, `${first} of ${holdings.length} plans hold 32 rows`);
    for (const { source } of fitted.values()) if (source.decode) assert.equal(source.decode.threads, 128);
  });

  test("they take what is written down, where this compiler wrote it", (t) => {
    const was = recorded(), lines = new Map([...fitted].map(([c, found]) => [labelOf(c), lineOf(c, found)]));
    if (writing) {
      // The sample alone leaves the list's lines as they are, unless another compiler wrote them.
      const kept = long || was.version !== version ? [] : [...was.lines];
      const all = new Map([...kept, ...lines]);
      writeFileSync(record, [...headOf(version), ...[...all.values()].toSorted(), ""].join("\n"));
      return;
    }
    if (was.version !== version) return t.skip(`cuda-resources.txt was written by NVRTC ${was.version}, and this is ${version}`);
    const changed = [...lines].filter(([label, line]) => was.lines.get(label) !== line).map(([label, line]) => `- ${was.lines.get(label) ?? `${label}: nothing`}\n+ ${line}`);
    assert.deepEqual(changed, [], `npm run kernels, then look at git diff:\n${changed.join("\n")}`);
  });

  after(() => fitted.clear());
});

test("the record has a line for every case of the sample, and the list's for both architectures", () => {
  const { version, lines } = recorded();
  assert.match(version ?? "", /^\d+\.\d+, \d+ bytes$/);
  assert.deepEqual(sample.map(labelOf).filter((label) => !lines.has(label)), [], "npm run kernels writes them, where NVRTC is");
  for (const arch of archs) assert.ok([...lines.keys()].filter((label) => label.startsWith(`${arch} `)).length > 200, arch);
});

/** The kernels of the fixed ops compile, without spills, for Hopper and for the least there may be; where NVRTC is installed. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { UsageError } from "../../core/errors.ts";
import { Compiler } from "./compiler.ts";
import { elements, moduleKinds, moduleLabel, type ModuleName, moduleText } from "./modules.ts";

/** A compiler, or why there is none. */
const opened = await Compiler.open("sm_90a").catch((error: unknown) => {
  if (error instanceof UsageError) return error.message.split("\n")[0]!;
  throw error;
});

test("a module's text defines its element, and what else it is made for", () => {
  assert.match(moduleText({ kind: "fused", element: "f16" }), /^#define ELEMENT_F16 1\n#define FUSED 1\n/);
  assert.doesNotMatch(moduleText({ kind: "skinny", element: "bf16" }), /^#define FUSED/m);
  assert.doesNotMatch(moduleText({ kind: "norm", element: "bf16" }), /#include/);
});

describe("NVRTC", { skip: typeof opened === "string" ? opened : false }, () => {
  const named = (element: (typeof elements)[number], kinds = moduleKinds): readonly ModuleName[] => kinds.map((kind) => ({ kind, element }));
  const all = elements.flatMap((element) => named(element));
  /** All take a minute and a half on a slow machine; the others are every text, every element and every architecture once. */
  const tried: Readonly<Record<string, readonly ModuleName[]>> = process.env["TESSERA_LONG"]
    ? { sm_90a: all, sm_80: all }
    : { sm_90a: named("bf16"), sm_80: named("f16", ["norm", "rope", "elementwise", "skinny"]) };
  for (const [arch, modules] of Object.entries(tried)) {
    test(`modules compile for ${arch}; names carry the element and are unique`, async () => {
      const compiler = await Compiler.open(arch), names: string[] = [];
      for (const name of modules) {
        const { resources } = await compiler.compile(`${moduleLabel(name)}.cu`, moduleText(name));
        assert.ok(resources.length > 0);
        for (const { kernel, spillBytes, stackBytes } of resources) {
          assert.deepEqual([spillBytes, stackBytes], [0, 0], kernel);
          assert.ok(kernel.endsWith(`_${name.element}`), kernel);
          names.push(kernel);
        }
      }
      assert.equal(new Set(names).size, names.length);
    });
  }
});

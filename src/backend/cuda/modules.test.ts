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
  const modules: readonly ModuleName[] = moduleKinds.flatMap((kind) => elements.map((element) => ({ kind, element })));
  for (const arch of ["sm_90a", "sm_80"]) {
    test(`every module compiles for ${arch}; names carry the element and are unique`, async () => {
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

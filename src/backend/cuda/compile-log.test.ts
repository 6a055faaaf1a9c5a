/** NVRTC's log, as versions 12 and 13 write it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { errorsOf, gapsOf, resourcesOf, slowness } from "./compile-log.ts";

const log13 = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'spill' for 'sm_90a'
ptxas info    : Function properties for spill
ptxas         .     1096 bytes stack frame, 1252 bytes spill stores, 1408 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 1096 bytes cumulative stack size
ptxas info    : Compile time = 82.218 ms
ptxas info    : Compiling entry function 'stack' for 'sm_90a'
ptxas info    : Function properties for stack
ptxas         .     256 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 256 bytes cumulative stack size, 40 bytes smem
ptxas info    : Compiling entry function 'good' for 'sm_90a'
ptxas info    : Function properties for good
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 0 barriers, 1040 bytes smem
`;
const log12 = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k' for 'sm_80'
ptxas info    : Function properties for k
    0 bytes stack frame, 8 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, 16 bytes smem, 368 bytes cmem[0]
`;

test("resources of each kernel", () => {
  assert.deepEqual(resourcesOf(log13), [
    { kernel: "spill", registers: 32, spillBytes: 2660, stackBytes: 1096, sharedBytes: 0 },
    { kernel: "stack", registers: 40, spillBytes: 0, stackBytes: 256, sharedBytes: 40 },
    { kernel: "good", registers: 168, spillBytes: 0, stackBytes: 0, sharedBytes: 1040 },
  ]);
  assert.deepEqual(resourcesOf(log12), [{ kernel: "k", registers: 255, spillBytes: 8, stackBytes: 0, sharedBytes: 16 }]);
  assert.deepEqual(resourcesOf(""), []);
});

test("a log that lacks a line of a kernel, or has another's, has gaps", () => {
  const kernels = ["spill", "stack", "good"];
  assert.deepEqual([gapsOf(log13, kernels), gapsOf(log12, ["k"])], [[], []]);
  const lines = log13.split("\n");
  for (const [i, line] of lines.entries()) {
    const gaps = gapsOf(lines.toSpliced(i, 1).join("\n"), kernels);
    assert.equal(gaps.length > 0, /entry function|properties|stack frame|Used/.test(line), line);
  }
  assert.deepEqual(gapsOf("", kernels), kernels.map((kernel) => `what ${kernel} takes is not said`));
  assert.deepEqual(gapsOf(log13 + log12, kernels), ["k is another's"]);
});

test("spills, stacks and serialised matrix instructions are slow, the rest is not", () => {
  const [spills, stack, ...none] = slowness(log13);
  assert.match(spills!, /^spill spills 2660 bytes \(it has 32 registers\)/);
  assert.match(stack!, /^stack keeps 256 bytes on the stack/);
  assert.deepEqual(none, []);
  assert.equal(slowness(log12).length, 1);
  const warnings = ["ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources in function 'k'",
    "ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized", "ptxas info    : (C7599) Potential Performance Loss: 'setmaxnreg' ignored"];
  assert.deepEqual(slowness(warnings.join("\n")), warnings.slice(0, 2));
});

test("errors without what the assembler has to tell", () => {
  assert.equal(errorsOf('k.cu(2): error: identifier "y" is undefined\n    x[0] = y;\n\nptxas info    : 0 bytes gmem\n1 error detected'), 'k.cu(2): error: identifier "y" is undefined\n    x[0] = y;\n1 error detected');
});

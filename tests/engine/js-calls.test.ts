/** Record once, replay: the JavaScript that a step runs does not grow with the number of layers. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { Session } from "node:inspector/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { stream } from "../../src/core/random.ts";
import { Engine, type EngineLimits } from "../../src/engine/engine.ts";
import { defaultSampling } from "../../src/sampling/params.ts";
import { device, openTiny } from "./tiny-model.ts";

const limits: EngineLimits = { maxNumBatchedTokens: 16, maxNumSeqs: 2, pageSize: 16, maxModelLen: 64, numPages: 8 };
const sizes = { hidden: 32, intermediate: 48, headDim: 16, heads: 2, vocab: 64 };
const src = new URL("../../src/", import.meta.url).href;

/** A llama of random weights. Returns its folder. */
function writeModel(numLayers: number): string {
  const folder = mkdtempSync(join(tmpdir(), "tessera-layers-"));
  const { hidden, intermediate, headDim, heads, vocab } = sizes;
  writeFileSync(join(folder, "config.json"), JSON.stringify({
    architectures: ["LlamaForCausalLM"], model_type: "llama", hidden_size: hidden, intermediate_size: intermediate, num_hidden_layers: numLayers,
    num_attention_heads: heads, num_key_value_heads: 1, head_dim: headDim, vocab_size: vocab, max_position_embeddings: 64, rms_norm_eps: 1e-6,
    rope_theta: 10000, hidden_act: "silu", tie_word_embeddings: true, bos_token_id: 1, eos_token_id: 2,
  }));
  const tensors: [string, number[]][] = [["model.embed_tokens.weight", [vocab, hidden]], ["model.norm.weight", [hidden]]];
  for (let i = 0; i < numLayers; i++) {
    const layer = `model.layers.${i}`;
    tensors.push(
      [`${layer}.input_layernorm.weight`, [hidden]], [`${layer}.post_attention_layernorm.weight`, [hidden]],
      [`${layer}.self_attn.q_proj.weight`, [heads * headDim, hidden]], [`${layer}.self_attn.k_proj.weight`, [headDim, hidden]],
      [`${layer}.self_attn.v_proj.weight`, [headDim, hidden]], [`${layer}.self_attn.o_proj.weight`, [hidden, heads * headDim]],
      [`${layer}.mlp.gate_proj.weight`, [intermediate, hidden]], [`${layer}.mlp.up_proj.weight`, [intermediate, hidden]],
      [`${layer}.mlp.down_proj.weight`, [hidden, intermediate]],
    );
  }
  const random = stream(numLayers);
  let at = 0;
  const header = Object.fromEntries(tensors.map(([name, shape]) => {
    const from = at;
    at += 4 * shape.reduce((a, b) => a * b);
    return [name, { dtype: "F32", shape, data_offsets: [from, at] }];
  }));
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(join(folder, "model.safetensors"), Buffer.concat([length, text, Buffer.from(Float32Array.from({ length: at / 4 }, () => random() - 0.5).buffer)]));
  return folder;
}

/** Calls of functions of src/ since the last count. */
async function countCalls(session: Session): Promise<number> {
  const { result } = await session.post("Profiler.takePreciseCoverage");
  return result.filter(({ url }) => url.startsWith(src)).flatMap(({ functions }) => functions).reduce((sum, { ranges }) => sum + ranges[0]!.count, 0);
}

test("a decode step makes the same number of JavaScript calls for 2 layers and for 20", { skip: device !== "cpu" && `the ${device} backend replays in JavaScript` }, async (t) => {
  const session = new Session();
  session.connect();
  await session.post("Profiler.enable");
  await session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: false });
  const measure = async (numLayers: number): Promise<{ load: number; steps: number[] }> => {
    const folder = writeModel(numLayers);
    try {
      await countCalls(session);
      // One thread: with more, how long thread 0 waits for the others is the machine's business.
      await using model = await openTiny(folder, limits, 1);
      const load = await countCalls(session);
      const engine = new Engine(model, { limits, eosTokenIds: [] });
      for (const id of ["a", "b"]) engine.submit(id, Int32Array.of(1, 2, 3), { ...defaultSampling, maxTokens: 20, temperature: 0 });
      const steps: number[] = [];
      for (let step = 0; step < 12; step++) {
        await countCalls(session);
        const deltas = await engine.step();
        steps.push(await countCalls(session));
        assert.equal(deltas.length, 2, "both requests decode");
      }
      return { load, steps: steps.slice(4) };
    } finally {
      rmSync(folder, { recursive: true });
    }
  };
  await measure(2);
  const few = await measure(2), many = await measure(20);
  session.disconnect();
  assert.ok(many.load > few.load + 18 * 5, `counting works: loading makes ${few.load} and ${many.load} calls`);
  assert.ok(few.steps.every((calls) => calls > 20), `a step makes some calls: ${few.steps}`);
  t.diagnostic(`${few.steps[0]} calls a step; loading: ${few.load} and ${many.load}`);
  assert.deepEqual(many.steps, few.steps);
});

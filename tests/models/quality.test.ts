/** What quantised weights may cost: the demo model's predictions on held-out text, beside those of f32. `npm run bench -- quality` has every format, and the whole text. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { capsOf } from "../../src/backend/registry.ts";
import { chooseWeightFormats, type Quantization } from "../../src/model/weight-formats.ts";
import { compare, heldOutText, type Quality, predict } from "../../bench/quality/measure.ts";

/** Nats a token, and the share of greedy tokens outside near-ties: of all positions. */
interface Bar { readonly divergence: number; readonly clearAgreement: number }
const bars: Readonly<Partial<Record<Quantization, Bar>>> = {
  int8: { divergence: 0.004, clearAgreement: 0.98 }, // asked for; ten times what is measured
  int4: { divergence: 0.03, clearAgreement: 0.95 }, // one and a half times what is measured
};

const chats = await heldOutText(400);
const reference = predict(chats);
const qualityOf = async (quantization: Quantization): Promise<Quality> => {
  const { logits } = await predict(chats, ({ source }) => ({ config: chooseWeightFormats(source, "auto", quantization, capsOf("cpu")) }));
  return compare(chats, (await reference).logits, logits).all;
};

for (const [quantization, bar] of Object.entries(bars)) {
  test(`--quantization ${quantization} predicts what f32 predicts: at most ${bar.divergence} nats a token apart, ${100 * bar.clearAgreement}% of greedy tokens the same`, async () => {
    const { divergence, clearAgreement, numPositions, numNearTies } = await qualityOf(quantization as Quantization);
    assert.ok(numPositions >= 400 && numNearTies < numPositions / 10);
    assert.ok(divergence <= bar.divergence, `${divergence} nats`);
    assert.ok(clearAgreement >= bar.clearAgreement, `${100 * clearAgreement}% outside near-ties`);
    assert.ok(divergence > 1e-5, "nothing was quantised");
  });
}

test("the measure sees a difference where there is one, and none where there is none", async () => {
  const { logits } = await reference;
  const same = compare(chats, logits, logits);
  assert.deepEqual([same.all.divergence, same.all.agreement, same.all.clearAgreement], [0, 1, 1]);
  assert.ok(same.said.numPositions > 100 && same.said.numPositions < same.all.numPositions);
  assert.ok(same.said.perplexity > 1 && same.said.perplexity < 2, `the model says what it was taught: ${same.said.perplexity}`);
  // Half of the temperature: the likeliest token stays, the distribution does not.
  const sharper = compare(chats, logits, logits.map((row) => row.map((x) => 2 * x)));
  assert.equal(sharper.all.agreement, 1);
  assert.ok(sharper.all.divergence > 0.1);
  const others = compare(chats, logits, logits.map((row) => row.toReversed()));
  assert.ok(others.all.clearAgreement < 0.01 && others.all.divergence > 1);
});

/**
 * Decoding, second way: one block mask that grows with the cache. Appending a token classifies the blocks it adds and those that were cut
 * short, a few of however many there are; then its own row is sliced out. Exact at each step.
 *
 *   node_modules/.bin/node examples/decoding-mutate.ts
 */
import { createBlockMask, flexAttention } from "../src/attention/index.ts";
import { attended, compare, PackedCache, packedQuery, PagedCache, StaticCache, steps, visible, type Way } from "./decoding.ts";

const one = { batch: 1, heads: 1, blockSize: 8 };

export const mutate: Way = {
  async *static() {
    const cache = new StaticCache();
    const blocks = createBlockMask(visible, { ...one, queryLength: cache.length, kvLength: cache.length });
    for (let step = 0; step < steps; step++) {
      const tokens = cache.add(), n = cache.length;
      blocks.append({ queries: 1, keys: 1 });
      yield attended(await flexAttention(cache.query(n - 1), cache.slots.view("key", n), cache.slots.view("value", n), { blockMask: blocks.slice(n - 1, n) }), tokens);
    }
  },

  async *packed() {
    const cache = new PackedCache();
    // The mask's tables grow in place. Appending looks which stretches of them changed, so that blocks which read only older entries stand.
    const blocks = createBlockMask(cache.mask, { ...one, queryLength: cache.length, kvLength: cache.length });
    for (let step = 0; step < steps; step++) {
      const tokens = cache.add(), n = cache.length;
      blocks.append({ queries: tokens.length, keys: tokens.length });
      yield attended(await flexAttention(packedQuery(tokens), cache.slots.view("key", n), cache.slots.view("value", n), { blockMask: blocks.slice(n - tokens.length, n) }), tokens);
    }
  },

  async *paged() {
    const cache = await PagedCache.open();
    // Positions are logical, so one block mask serves all sequences up to the longest.
    const longest = Math.max(...PagedCache.prompts);
    const blocks = createBlockMask(visible, { ...one, queryLength: longest, kvLength: longest });
    for (let step = 0; step < steps; step++) {
      const tokens = await cache.add();
      blocks.append({ queries: 1, keys: 1 });
      yield attended(await cache.pages.attention(packedQuery(tokens), tokens.map(({ sequence }) => ({ sequence, rows: 1 })), { blockMask: blocks }), tokens);
    }
    cache.pages.close();
  },
};

if (import.meta.main) await compare("mutate", mutate);

/**
 * Decoding, third way: one block mask for the longest there can be, made once, and each step takes its own row of blocks from it. The slice's
 * mask goes on seeing logical positions. Exact at each step; nothing is classified while decoding.
 *
 *   node_modules/.bin/node examples/decoding-index.ts
 */
import { createBlockMask, flexAttention } from "../src/attention/index.ts";
import { attended, compare, maxTokens, PackedCache, packedQuery, PagedCache, StaticCache, steps, visible, type Way } from "./decoding.ts";

const one = { batch: 1, heads: 1, blockSize: 8 };

export const index: Way = {
  async *static() {
    const cache = new StaticCache();
    const blocks = createBlockMask(visible, { ...one, queryLength: maxTokens, kvLength: maxTokens });
    for (let step = 0; step < steps; step++) {
      const tokens = cache.add(), position = cache.length - 1;
      yield attended(await flexAttention(cache.query(position), cache.slots.view("key"), cache.slots.view("value"), { blockMask: blocks.slice(position, position + 1) }), tokens);
    }
  },

  async *packed() {
    const cache = new PackedCache();
    // The documents of tokens to come are not known yet. As the table fills, slicing notices, and blocks that read what changed are classified again.
    const blocks = createBlockMask(cache.mask, { ...one, queryLength: PackedCache.capacity, kvLength: PackedCache.capacity });
    for (let step = 0; step < steps; step++) {
      const tokens = cache.add(), n = cache.length;
      yield attended(await flexAttention(packedQuery(tokens), cache.slots.view("key"), cache.slots.view("value"), { blockMask: blocks.slice(n - tokens.length, n) }), tokens);
    }
  },

  async *paged() {
    const cache = await PagedCache.open();
    // A paged call looks its rows up by itself, each sequence's at its own position.
    const blocks = createBlockMask(visible, { ...one, queryLength: maxTokens, kvLength: maxTokens });
    for (let step = 0; step < steps; step++) {
      const tokens = await cache.add();
      yield attended(await cache.pages.attention(packedQuery(tokens), tokens.map(({ sequence }) => ({ sequence, rows: 1 })), { blockMask: blocks }), tokens);
    }
    cache.pages.close();
  },
};

if (import.meta.main) await compare("index", index);

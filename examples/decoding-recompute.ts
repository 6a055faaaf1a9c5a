/**
 * Decoding, first way: block masks that hold for the next few tokens, made anew every n of them. They let a little too much through, and a
 * score mod that reads where decoding stands masks the remainder. Block masks are made seldom; each step visits up to n keys in vain.
 *
 *   node_modules/.bin/node examples/decoding-recompute.ts
 */
import { type BlockMask, createBlockMask, flexAttention, maskMod, scoreMod } from "../src/attention/index.ts";
import { attended, compare, maxTokens, PackedCache, packedQuery, PagedCache, size, StaticCache, steps, visible, type Way } from "./decoding.ts";

const every = 5;

export const recompute: Way = {
  async *static() {
    const cache = new StaticCache();
    // Captured values are read at each call, so this one mod, and its one kernel, follows the steps.
    const now = { position: 0, visible };
    const remainder = scoreMod(({ position, visible }) => (score, b, h, q, kv) => (visible(b, h, position, kv) ? score : -Infinity), now);
    let blocks: BlockMask | undefined;
    for (let step = 0; step < steps; step++) {
      const tokens = cache.add();
      now.position = cache.length - 1;
      if (!blocks || step % every === 0) {
        const stretch = maskMod(({ first, last, size }) => (b, h, q, kv) => kv > first - size && kv <= last, { first: now.position, last: now.position + every - 1, size });
        blocks = createBlockMask(stretch, { batch: 1, heads: 1, queryLength: 1, kvLength: maxTokens, blockSize: 8 });
      }
      yield attended(await flexAttention(cache.query(now.position), cache.slots.view("key"), cache.slots.view("value"), { blockMask: blocks, scoreMod: remainder }), tokens);
    }
  },

  async *packed() {
    const cache = new PackedCache();
    const now = { first: 0, mask: cache.mask };
    const remainder = scoreMod(({ first, mask }) => (score, b, h, q, kv) => (mask(b, h, first + q, kv) ? score : -Infinity), now);
    let blocks: BlockMask | undefined;
    for (let step = 0; step < steps; step++) {
      const tokens = cache.add();
      now.first = cache.length - tokens.length;
      if (!blocks || step % every === 0) {
        // Row q is the newest token of sequence q: of the keys known now it sees its document's, of those to come perhaps any. A copy, as the
        // table goes on growing and the blocks shall not follow it.
        const stretch = maskMod(({ known, start, end }) => (b, h, q, kv) => known[kv] === q || (kv >= start && kv < end), { known: cache.documentId.slice(), start: now.first, end: now.first + every * tokens.length });
        blocks = createBlockMask(stretch, { batch: 1, heads: 1, queryLength: tokens.length, kvLength: PackedCache.capacity, blockSize: [1, 8] });
      }
      yield attended(await flexAttention(packedQuery(tokens), cache.slots.view("key"), cache.slots.view("value"), { blockMask: blocks, scoreMod: remainder }), tokens);
    }
  },

  async *paged() {
    const cache = await PagedCache.open();
    const remainder = scoreMod(({ visible }) => (score, b, h, q, kv) => (visible(b, h, q, kv) ? score : -Infinity), { visible });
    let blocks: BlockMask | undefined;
    for (let step = 0; step < steps; step++) {
      const tokens = await cache.add();
      if (!blocks || step % every === 0) {
        const firsts = Int32Array.from(tokens, (t) => t.position);
        const stretch = maskMod(({ firsts, every, size }) => (b, h, q, kv) => kv > firsts[b]! - size && kv < firsts[b]! + every, { firsts, every, size });
        blocks = createBlockMask(stretch, { batch: 2, heads: 1, queryLength: maxTokens, kvLength: maxTokens, blockSize: [maxTokens, 8] });
      }
      yield attended(await cache.pages.attention(packedQuery(tokens), tokens.map(({ sequence }) => ({ sequence, rows: 1 })), { blockMask: blocks, scoreMod: remainder }), tokens);
    }
    cache.pages.close();
  },
};

if (import.meta.main) await compare("recompute", recompute);

/**
 * What is in which page: a hash table from (the page before it, its tokens) to a page, so that pages form a tree and a page stands for
 * all tokens from the first on.
 *
 *   salt ─▶ page 7 [the first 16 tokens] ─▶ page 2 [the next 16] ─▶ page 9
 *                                                               └─▶ page 4      another continuation
 *
 * A page's hash chains its parent's hash with its tokens (and begins with the salt). A hash only says where to look: salt, parent and
 * tokens are compared, so a collision costs time and never serves somebody else's page. That comparing one page is enough rests
 * on the tree: whoever is found stands behind the very parent that it was added behind. A page that leaves the index and is another's later counts as
 * another parent, by its `stay`; those behind it are cut off: in the index for those who hold them, and never found from the root again.
 * Knows no pool; all memory is typed arrays, made once.
 */
import { invariant } from "../core/errors.ts";
import type { Sequence } from "./sequence.ts";

/** In place of a page: none. As a parent: the sequence begins here. */
export const noPage = -1;
const absent = -2;
/** In place of a parent: it has left the index. */
export const goneParent = -3;

/** One more token in a hash of 32 bits. */
function mix(hash: number, token: number): number {
  const h = Math.imul(hash ^ token, 0x9e3779b1);
  return Math.imul(h ^ (h >>> 15), 0x85ebca6b) ^ (h >>> 13);
}

export class PageIndex {
  readonly #pageSize: number;
  readonly #seed: number;
  readonly #mix: (hash: number, token: number) => number;
  /** First page of each bucket; a bucket's pages are chained by `#next`. */
  readonly #buckets: Int32Array;
  readonly #next: Int32Array;
  readonly #hash: Int32Array;
  readonly #parent: Int32Array;
  /** How often each page has left the index, and the parent had when the page was added. */
  readonly #stay: Int32Array;
  readonly #stayOfParent: Int32Array;
  /** [numPages, pageSize] */
  readonly #tokens: Int32Array;
  /** Of pages without a parent. */
  readonly #salts: string[];

  /** `seed` makes collisions unpredictable for whoever sends requests; `hash` is replaced by tests. */
  constructor(numPages: number, pageSize: number, seed = 0, hash: (hash: number, token: number) => number = mix) {
    this.#pageSize = pageSize;
    this.#seed = seed | 0;
    this.#mix = hash;
    this.#buckets = new Int32Array(2 ** Math.ceil(Math.log2(2 * numPages))).fill(noPage);
    this.#next = new Int32Array(numPages);
    this.#hash = new Int32Array(numPages);
    this.#parent = new Int32Array(numPages).fill(absent);
    this.#stay = new Int32Array(numPages);
    this.#stayOfParent = new Int32Array(numPages);
    this.#tokens = new Int32Array(numPages * pageSize);
    this.#salts = new Array<string>(numPages).fill("");
  }

  has(page: number): boolean {
    return this.#parent[page] !== absent;
  }

  /** The page of `block` of the sequence, whose tokens before that are what `parent` stands for; or noPage. */
  find(sequence: Sequence, block: number, parent: number): number {
    const hash = this.#hashOf(sequence, block, parent);
    for (let page = this.#buckets[this.#bucket(hash)]!; page !== noPage; page = this.#next[page]!) {
      if (this.#hash[page] === hash && this.#standsBehind(page, parent) && this.#holds(page, sequence, block)) return page;
    }
    return noPage;
  }

  /** `page` holds `block` of the sequence, and no page in the index does so yet. */
  add(page: number, sequence: Sequence, block: number, parent: number): void {
    invariant(!this.has(page) && (parent === noPage ? block === 0 : this.has(parent)), `page ${page} can not stand behind ${parent}`);
    const hash = this.#hashOf(sequence, block, parent), bucket = this.#bucket(hash);
    this.#hash[page] = hash;
    this.#parent[page] = parent;
    if (parent !== noPage) this.#stayOfParent[page] = this.#stay[parent]!;
    if (block === 0) this.#salts[page] = saltOf(sequence);
    sequence.copyTokens(this.#tokens, page * this.#pageSize, block * this.#pageSize, this.#pageSize);
    this.#next[page] = this.#buckets[bucket]!;
    this.#buckets[bucket] = page;
  }

  remove(page: number): void {
    invariant(this.has(page), `page ${page} is not in the index`);
    const bucket = this.#bucket(this.#hash[page]!), next = this.#next[page]!;
    let at = this.#buckets[bucket]!;
    if (at === page) this.#buckets[bucket] = next;
    else {
      while (this.#next[at] !== page) at = this.#next[at]!;
      this.#next[at] = next;
    }
    this.#parent[page] = absent;
    this.#stay[page]!++;
    this.#salts[page] = "";
  }

  /** The page before `page`, or noPage, or goneParent. */
  parent(page: number): number {
    invariant(this.has(page), `page ${page} is not in the index`);
    const parent = this.#parent[page]!;
    return this.#standsBehind(page, parent) ? parent : goneParent;
  }

  #standsBehind(page: number, parent: number): boolean {
    return this.#parent[page] === parent && (parent === noPage || this.#stayOfParent[page] === this.#stay[parent]);
  }

  #bucket(hash: number): number {
    return hash & (this.#buckets.length - 1);
  }

  #hashOf(sequence: Sequence, block: number, parent: number): number {
    let hash = parent === noPage ? this.#seed : this.#hash[parent]!;
    const salt = parent === noPage ? saltOf(sequence) : "";
    for (let i = 0; i < salt.length; i++) hash = this.#mix(hash, salt.charCodeAt(i));
    const from = block * this.#pageSize;
    for (let i = 0; i < this.#pageSize; i++) hash = this.#mix(hash, sequence.token(from + i));
    return hash | 0;
  }

  #holds(page: number, sequence: Sequence, block: number): boolean {
    if (block === 0 && this.#salts[page] !== saltOf(sequence)) return false;
    const from = block * this.#pageSize, at = page * this.#pageSize;
    for (let i = 0; i < this.#pageSize; i++) if (this.#tokens[at + i] !== sequence.token(from + i)) return false;
    return true;
  }
}

/** Whoever has none asks for no page. */
function saltOf({ id, salt }: Sequence): string {
  if (salt === null) invariant(false, `sequence ${id} shares no pages`);
  return salt;
}

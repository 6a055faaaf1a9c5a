/** A tree of texts by their UTF-16 units: what begins at a place of a text is found by walking down. Knows no tokens. */
export interface TrieNode<T> {
  readonly next: Map<number, TrieNode<T>>;
  /** Of the text that ends here. */
  value: T | undefined;
}

export const emptyTrie = <T>(): TrieNode<T> => ({ next: new Map(), value: undefined });

/** Puts `value` at the end of `text`, which is not empty; a value that is there already gives way. */
export function insert<T>(root: TrieNode<T>, text: string, value: T): void {
  let at = root;
  for (let i = 0; i < text.length; i++) {
    let child = at.next.get(text.charCodeAt(i));
    if (child === undefined) at.next.set(text.charCodeAt(i), (child = emptyTrie()));
    at = child;
  }
  at.value = value;
}

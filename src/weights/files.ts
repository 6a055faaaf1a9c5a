/**
 * What this package needs of a file system. `#files` in package.json's imports chooses who provides it: node:fs in
 * Node, an implementation that refuses elsewhere. It knows no format.
 */

/** A file open for reading. */
export interface OpenFile {
  readonly path: string;
  readonly bytes: number;
  /** Fills `into` (possibly shared memory) from `position` on. @throws UsageError when the file ends before. */
  read(into: Uint8Array, position: number): void;
  close(): void;
}

/** A file being written, with a running hash of all that is in it. */
export interface GrowingFile {
  /** Bytes in it so far, those it had when it was opened included. */
  readonly bytes: number;
  append(data: Uint8Array): void;
  /** Closes it. Hexadecimal hash of the whole content. */
  finish(): string;
  close(): void;
}

export interface Files {
  openFile(path: string): OpenFile;
  /** The text of a small file, UTF-8; undefined when there is none. */
  readText(path: string): string | undefined;
  isFolder(path: string): boolean;
  isFile(path: string): boolean;
  /** Names in a folder, sorted. */
  list(folder: string): readonly string[];
  join(...parts: readonly string[]): string;
  /** Opens for appending and hashes what is there already, after `prefix` (git hashes "blob SIZE\0" first). */
  grow(path: string, hash: "sha256" | "sha1", prefix: string): GrowingFile;
  /** Writes a small file whole, with the folders above it. */
  writeText(path: string, text: string): void;
  makeFolder(path: string): void;
  move(from: string, to: string): void;
  remove(path: string): void;
  /** A relative symbolic link at `path` to `target`; a copy where links are not allowed. Replaces what is there. */
  link(target: string, path: string): void;
  /** Where the hub's files are kept when nobody says otherwise: HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub. */
  defaultHubCache(): string;
}

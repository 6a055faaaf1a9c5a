/** The backends that models are tested on, and why one of them is skipped. */
import { existsSync } from "node:fs";
import type { Backend } from "../../src/backend/backend.ts";
import { open } from "../../src/backend/reference/open.ts";

export interface TestBackend {
  readonly name: "reference" | "wasm";
  readonly open: () => Promise<Backend>;
  readonly skip: string | false;
}

export const backends: readonly TestBackend[] = [
  { name: "reference", open: () => open(), skip: false },
];
